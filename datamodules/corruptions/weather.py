"""Snow and fog; frost and spatter have files of their own."""

import numpy as np
from numpy.typing import NDArray

from datamodules.corruptions.blur import enlarge, streak
from datamodules.corruptions.pixels import Picture, to_bytes, to_float

# ITU-R BT.601
LUMA = np.array([0.299, 0.587, 0.114])


def snow(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Whitens the picture and lets flakes fall, in two directions that are opposite to each other."""
    mean, sd, zoom, least, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = enlarge(rng.normal(mean, sd, size=(*picture.shape[:2], 1)), zoom)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    flakes = streak(flakes, radius, sigma, angle=rng.uniform(-135, -45))
    pixels = to_float(picture)
    whitened = np.maximum(pixels, (pixels @ LUMA * 1.5 + 0.5)[:, :, None])
    return to_bytes(keep * pixels + (1 - keep) * whitened + flakes + np.rot90(flakes, 2))


def fog(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Adds clouds and divides by what they add, so that the brightest pixel keeps its brightness."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    pixels = to_float(picture)
    most = pixels.max()
    return to_bytes((pixels + amount * clouds(len(picture), decay, rng)[:, :, None]) * most / (most + amount))


def clouds(size: int, decay: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws a plasma fractal with the diamond-square algorithm, on a torus.

    Args:
        size: Side, a power of two.
        decay: The random part shrinks by the square of this each time the grid becomes twice as fine.
        rng: Source of the random numbers.

    Returns:
        float64 [size, size]; the lowest value is 0, the highest 1.
    """
    field = np.zeros((size, size))
    step, spread = size, 1.0

    def vary(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums / 4 + rng.uniform(-spread, spread, sums.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = centres = vary(rows + np.roll(rows, -1, axis=1))
        above = centres + np.roll(centres, 1, axis=0)
        field[::step, half::step] = vary(above + corners + np.roll(corners, -1, axis=1))
        beside = centres + np.roll(centres, 1, axis=1)
        # the corner below would be right (axis 0); CIFAR-10-C was drawn with the one to the right
        field[half::step, ::step] = vary(beside + corners + np.roll(corners, -1, axis=1))
        step, spread = half, spread / decay**2
    field -= field.min()
    field /= field.max()
    return field
