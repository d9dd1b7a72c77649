"""Blurs."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.corruptions.pixels import Picture, Pixels, to_bytes, to_float


def smooth(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur over the first two dimensions; sigma in pixels, edges repeated."""
    blurred: Pixels = ndimage.gaussian_filter(pixels, sigma, mode="nearest", axes=(0, 1))
    return blurred


def enlarge(pixels: Pixels, factor: float) -> Pixels:
    """Enlarges the middle of a square (linear interpolation) and returns as many pixels as there were.

    Args:
        pixels: Shape [S, S, C].
        factor: How much larger things become, at least 1.

    Returns:
        Shape [S, S, C].
    """
    weights = _enlargement(len(pixels), factor)
    enlarged: Pixels = weights @ np.tensordot(weights, pixels, 1)
    return enlarged


@cache
def _enlargement(size: int, factor: float) -> NDArray[np.float64]:
    """The matrix that enlarges one dimension: [size, size], from old pixels to new ones."""
    inside = math.ceil(size / factor)
    start = (size - inside) // 2
    weights = ndimage.zoom(np.eye(size)[start : start + inside], (factor, 1), order=1)
    start = (len(weights) - size) // 2
    middle: NDArray[np.float64] = weights[start : start + size]
    return middle


def streak(pixels: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Motion blur: every pixel becomes the mean of those that lie on one side of it along a line.

    The weights are half a Gaussian and the places are rounded to pixels, as in ImageMagick's `-motion-blur`, which the
    makers of CIFAR-10-C used.

    Args:
        pixels: Shape [H, W, ...].
        radius: The line has 2 * radius + 1 pixels.
        sigma: Standard deviation of the weights, in pixels.
        angle: Direction, in degrees; 0 looks to the right, 90 down.

    Returns:
        The shape of `pixels`.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = pixels.shape[:2]
    down = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    right = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    blurred = np.zeros_like(pixels)
    for weight, dy, dx in zip(weights, down.tolist(), right.tolist(), strict=True):
        rows = (np.arange(height) + dy).clip(0, height - 1)
        columns = (np.arange(width) + dx).clip(0, width - 1)
        blurred += weight * pixels[rows[:, None], columns]
    return blurred


def gaussian_blur(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Gaussian blur; sigma 0.4 to 1 pixel."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    return to_bytes(smooth(to_float(picture), sigma))


def defocus_blur(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Mean over a disk whose edge is softened; radius 0.3 to 1.5 pixels."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    reach = math.ceil(radius) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    disk = ndimage.gaussian_filter(disk / disk.sum(), softness, radius=1)
    return to_bytes(ndimage.correlate(to_float(picture), disk[:, :, None], mode="mirror"))


def glass_blur(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Frosted glass: blur, take pixels from a neighbour above or to the left at random, blur again."""
    sigma, passes = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    shuffled = to_bytes(smooth(to_float(picture), sigma))
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[2:height, 2:width]
    for _ in range(passes):
        up, left = rng.integers(0, 2, size=(2, *rows.shape))
        # CIFAR-10-C means to swap two pixels, but its code copies one over the other; so do we
        shuffled[2:, 2:] = shuffled[rows - up, columns - left]
    return to_bytes(smooth(to_float(shuffled), sigma))


def motion_blur(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Blur along a line within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return to_bytes(streak(to_float(picture), radius, sigma, angle=rng.uniform(-45, 45)))


def zoom_blur(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Mean of the picture and of its enlargements by 1, 1.01, 1.02, ... up to 1.06, 1.11, 1.15, 1.20 or 1.25."""
    # these steps, rounding errors included, are those of CIFAR-10-C
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01).tolist()
    pixels = to_float(picture)
    return to_bytes((pixels + sum(enlarge(pixels, factor) for factor in factors)) / (len(factors) + 1))
