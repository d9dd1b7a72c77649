"""The common corruptions of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019) for pictures of 32 x 32 pixels.

The parameters are those of CIFAR-10-C; published packages have only those of ImageNet-C, which are far stronger. Each
corruption is a function of (uint8 picture [32, 32, 3], severity 1 to 5, generator) that returns a new uint8 picture.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from datamodules.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from datamodules.corruptions.digital import brightness, contrast, elastic, jpeg, pixelate, saturate
from datamodules.corruptions.frost import frost
from datamodules.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from datamodules.corruptions.pixels import Picture
from datamodules.corruptions.spatter import spatter
from datamodules.corruptions.weather import fog, snow

Corruption: TypeAlias = Callable[[Picture, int, np.random.Generator], Picture]


def original(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Leaves the picture as it is, which Learning from Failure counts among its corruptions."""
    return picture.copy()


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "snow": snow,
        "frost": frost,
        "fog": fog,
        "brightness": brightness,
        "contrast": contrast,
        "spatter": spatter,
        "elastic": elastic,
        "jpeg": jpeg,
        "pixelate": pixelate,
        "saturate": saturate,
        "gaussian noise": gaussian_noise,
        "shot noise": shot_noise,
        "impulse noise": impulse_noise,
        "speckle noise": speckle_noise,
        "gaussian blur": gaussian_blur,
        "defocus blur": defocus_blur,
        "glass blur": glass_blur,
        "motion blur": motion_blur,
        "zoom blur": zoom_blur,
        "original": original,
    }
)

__all__ = ["CORRUPTIONS", "Corruption", "Picture", "original"]
