"""Noise that each pixel and channel has for itself."""

import numpy as np

from datamodules.corruptions.pixels import Picture, to_bytes, to_float


def gaussian_noise(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Adds normal noise; standard deviation 0.04 to 0.10 of the range."""
    sd = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return to_bytes(to_float(picture) + rng.normal(scale=sd, size=picture.shape))


def shot_noise(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Counts photons, of which a white pixel has 500 down to 50: Poisson noise."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return to_bytes(rng.poisson(to_float(picture) * photons) / photons)


def impulse_noise(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Sets 1 to 7 % of the values to the lowest or the highest ("salt and pepper")."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = rng.random(picture.shape) < share
    extremes = rng.integers(0, 2, size=picture.shape, dtype=np.uint8) * np.uint8(255)
    return np.where(hit, extremes, picture)


def speckle_noise(picture: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Adds normal noise in proportion to the pixel; standard deviation 0.06 to 0.20 of its value."""
    sd = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    pixels = to_float(picture)
    return to_bytes(pixels + pixels * rng.normal(scale=sd, size=picture.shape))
