"""Spatter: drops of water (severity 1 to 3) or mud (4 and 5) on the lens."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.corruptions.blur import smooth
from datamodules.corruptions.pixels import Picture, Pixels, to_bytes, to_float

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
# a relief lit from one corner
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
WEAK, STRONG = 50, 150
DIAGONAL = np.tan(np.pi / 8)


def spatter(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Puts drops where smoothed noise exceeds a threshold."""
    mean, sd, sigma, least, strength, is_mud = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )[severity - 1]
    pixels = to_float(picture)
    liquid = smooth(rng.normal(mean, sd, size=picture.shape[:2]), sigma)
    if not is_mud:
        shine = strength * _drops(np.where(liquid < least, 0, liquid))
        return to_bytes(pixels + shine[:, :, None] * WATER)
    cover = smooth((liquid > least).astype(np.float64), strength)
    cover = np.where(cover < 0.8, 0, cover)[:, :, None]
    return to_bytes(pixels * (1 - cover) + cover * MUD)


def _drops(liquid: Pixels) -> Pixels:
    """How much the water shines, range 0 to 1: it depends on the distance from the edges of the drops."""
    height = (liquid.clip(0, 1) * 255).astype(np.uint8)
    distance = ndimage.distance_transform_edt(~_edges(height)).clip(max=20)
    distance = _equalise(ndimage.uniform_filter(distance, 3, mode="mirror").astype(np.uint8))
    relief = ndimage.correlate(distance.astype(np.float64), RELIEF, mode="mirror").clip(0, 255)
    shine: Pixels = height * np.round(ndimage.uniform_filter(relief, 3, mode="mirror"))
    shine /= max(shine.max(), 1)
    return shine


def _equalise(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spreads grey values evenly over 0 to 255 (histogram equalisation)."""
    below = np.bincount(values.ravel(), minlength=256).cumsum()
    first = below[values.min()]
    table = np.round((below - first).clip(0) * 255 / max(values.size - first, 1))
    spread: NDArray[np.uint8] = table.astype(np.uint8)[values]
    return spread


def _edges(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Canny's edges with Sobel gradients, thresholds 50 and 150 on the sum of their absolute values."""
    x, y = (ndimage.sobel(image.astype(np.int64), axis, mode="nearest") for axis in (1, 0))
    strength = np.abs(x) + np.abs(y)
    around = np.pad(strength, 1)
    height, width = image.shape

    def neighbour(dy: int, dx: int) -> NDArray[np.int64]:
        return around[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # an edge is at least as strong as its two neighbours across it; of two equals the first counts
    flat, steep = np.abs(y) < DIAGONAL * np.abs(x), np.abs(y) * DIAGONAL > np.abs(x)
    across = [
        (flat, (0, -1)),
        (steep, (-1, 0)),
        (~flat & ~steep & (x * y >= 0), (-1, -1)),
        (~flat & ~steep & (x * y < 0), (-1, 1)),
    ]
    weak = np.zeros(image.shape, dtype=bool)
    for direction, (dy, dx) in across:
        later = neighbour(-dy, -dx)
        keeps = strength > later if dy and dx else strength >= later
        weak |= direction & (strength > neighbour(dy, dx)) & keeps
    weak &= strength > WEAK
    regions, _ = ndimage.label(weak, np.ones((3, 3)))
    return weak & np.isin(regions, np.unique(regions[weak & (strength > STRONG)]))
