"""The two pixel formats of the corruptions: bytes outside, floating point inside."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SIDE = 32

# uint8 [32, 32, 3], RGB
Picture: TypeAlias = NDArray[np.uint8]
# float64 [32, 32, 3], RGB, range 0 to 1
Pixels: TypeAlias = NDArray[np.float64]


def to_float(picture: Picture) -> Pixels:
    """Returns the pixels in the range 0 to 1."""
    return picture.astype(np.float64) / 255


def to_bytes(pixels: Pixels) -> Picture:
    """Returns the pixels as bytes; what lies outside 0 to 1 is clipped."""
    # cut and not rounded, as in the code that made CIFAR-10-C
    cut: Picture = (pixels.clip(0, 1) * 255).astype(np.uint8)
    return cut
