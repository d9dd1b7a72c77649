"""Frost: a layer of ice crystals from photographs, or drawn where there are none."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.corruptions.pixels import SIDE, Picture
from datamodules.images import SUFFIXES, decode
from lightning_modules.errors import ConfigError

PLATES = 5
# every fifth pixel of a photograph: a scale of 0.2 without smoothing
STEP = 5
# colour and standard deviation of the drawn plates: roughly those of the five photographs, 0 to 255
DRAWN = (
    ((77, 148, 165), 16),
    ((198, 203, 212), 18),
    ((198, 203, 212), 18),
    ((143, 158, 170), 26),
    ((102, 114, 125), 34),
)
HEIGHT, WIDTH = 100, 150
DIRECTIONS = 4


def frost(
    picture: Picture, severity: int, rng: np.random.Generator, plates: tuple[Picture, ...] | None = None
) -> Picture:
    """Adds a piece of frost to the picture, both weighted.

    Args:
        picture: uint8 [32, 32, 3].
        severity: 1 to 5.
        rng: Chooses the plate and the piece of it.
        plates: Pictures of frost, of which one is used; drawn ones when not given.

    Returns:
        uint8 [32, 32, 3].
    """
    weight, amount = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    plates = drawn_plates() if plates is None else plates
    plate = plates[rng.integers(len(plates))]
    top, left = (rng.integers(size - SIDE) for size in plate.shape[:2])
    piece = plate[top : top + SIDE, left : left + SIDE]
    mixed: Picture = (weight * picture.astype(np.float64) + amount * piece).clip(0, 255).astype(np.uint8)
    return mixed


def read_plates(folder: Path) -> tuple[Picture, ...]:
    """Reads photographs of frost at a fifth of their size.

    Args:
        folder: Holds them; the first five by name are taken, as in the code that made CIFAR-10-C.

    Returns:
        uint8 [H, W, 3] each.

    Raises:
        ConfigError: The folder is missing or holds no picture, or a picture is broken or too small.
    """
    names = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:PLATES]
    if not names:
        raise ConfigError(f"data.frost_dir: {folder} holds no picture; give the folder of the frost photographs")
    plates = []
    for path in names:
        plate = np.asarray(decode(path.read_bytes(), str(path)))[STEP // 2 :: STEP, STEP // 2 :: STEP]
        if min(plate.shape[:2]) <= SIDE:
            raise ConfigError(
                f"data.frost_dir: {path} is too small; each side must have more than {SIDE * STEP} pixels"
            )
        plates.append(plate)
    return tuple(plates)


@cache
def drawn_plates() -> tuple[Picture, ...]:
    """Draws plates that look like frost at a distance: needles of ice that lie parallel within each crystal."""
    rng = np.random.default_rng(0)
    plates = []
    for colour, sd in DRAWN:
        needles = _unit(_needles(rng))
        grain = rng.standard_normal((HEIGHT, WIDTH))
        clouds = _unit(ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), 10, mode="wrap"))
        texture = sd * (0.8 * needles + 0.2 * grain + 0.6 * clouds)
        plates.append((np.array(colour) + texture[:, :, None]).clip(0, 255).astype(np.uint8))
    return tuple(plates)


def _needles(rng: np.random.Generator) -> NDArray[np.float64]:
    shape = (DIRECTIONS, HEIGHT, WIDTH)
    along = rng.standard_normal(shape)
    for number in range(DIRECTIONS):
        angle = np.pi * number / DIRECTIONS
        line = np.zeros((3, 3))
        for step in (-1, 0, 1):
            line[round(1 + step * np.sin(angle)), round(1 + step * np.cos(angle))] = 1
        along[number] = ndimage.correlate(along[number], line, mode="wrap")
    # each crystal has the direction whose smooth random field is the highest there
    crystal = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 4, 4), mode="wrap").argmax(axis=0)
    chosen: NDArray[np.float64] = np.take_along_axis(along, crystal[None], axis=0)[0]
    return chosen


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    standard: NDArray[np.float64] = (values - values.mean()) / values.std()
    return standard
