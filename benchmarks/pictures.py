"""Pictures for measurements, in class folders as `Folder` reads them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(root: Path, counts: Mapping[str, int], classes: int, size: tuple[int, int], suffix: str) -> None:
    """Write smooth random pictures, whose files are about as large as those of photographs.

    Args:
        root: Where the splits go.
        counts: Pictures of each split.
        classes: Number of classes, which take turns.
        size: Width and height, in pixels.
        suffix: Ending of the files, such as png.
    """
    random = np.random.default_rng(0)
    width, height = (max(side // 8, 4) for side in size)
    for split, count in counts.items():
        for number in range(count):
            folder = root / split / str(number % classes)
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.{suffix}")
