"""Backgrounds of the Miniature: one random texture each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

SIZE = 32
BACKGROUND_RGB = np.array(
    [
        [0.24, 0.48, 0.16],
        [0.08, 0.34, 0.58],
        [0.80, 0.68, 0.45],
        [0.58, 0.28, 0.22],
        [0.52, 0.74, 0.95],
        [0.88, 0.91, 0.95],
        [0.32, 0.09, 0.04],
        [0.46, 0.30, 0.16],
    ],
    dtype=np.float32,
)


def _grid() -> tuple[Floats, Floats]:
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / (SIZE / 2) - 1
    xs, ys = np.meshgrid(axis, -axis)
    return xs.astype(np.float32), ys.astype(np.float32)


X, Y = _grid()


def _cloud(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Smooth noise [32, 32] in about [-1, 1], with ``height`` x ``width`` free cells."""
    coarse = rng.standard_normal((height + 1, width + 1), dtype=np.float32)
    noise: Floats = _interpolation(height) @ coarse @ _interpolation(width).T
    return noise


def _interpolation(cells: int) -> Floats:
    """Matrix [32, cells + 1] that spreads knots smoothly over the picture."""
    if cells not in _INTERPOLATIONS:
        place = np.linspace(0, cells, SIZE, endpoint=False)
        left = np.floor(place).astype(int)
        part = place - left
        part = part * part * (3 - 2 * part)
        matrix = np.zeros((SIZE, cells + 1), dtype=np.float32)
        matrix[np.arange(SIZE), left] = 1 - part
        matrix[np.arange(SIZE), left + 1] += part
        _INTERPOLATIONS[cells] = matrix
    return _INTERPOLATIONS[cells]


_INTERPOLATIONS: dict[int, Floats] = {}


def _tinted(background: int, strength: Floats, tint: tuple[float, float, float]) -> Floats:
    """Base colour of a background plus ``strength`` [32, 32] times ``tint``, as [32, 32, 3]."""
    picture: Floats = BACKGROUND_RGB[background] + strength[..., None] * np.asarray(tint, dtype=np.float32)
    return picture


def _grass(rng: np.random.Generator) -> Floats:
    blades = 0.6 * _cloud(rng, 5, 31) + 0.4 * _cloud(rng, 3, 3)
    return _tinted(0, blades, (0.07, 0.13, 0.05))


def _water(rng: np.random.Generator) -> Floats:
    phase = rng.uniform(0, 2 * np.pi)
    waves = np.sin(Y * rng.uniform(11, 14) + 1.2 * _cloud(rng, 2, 4) + phase)
    return _tinted(1, waves.astype(np.float32), (0.05, 0.09, 0.10))


def _sand(rng: np.random.Generator) -> Floats:
    grains = 0.5 * rng.standard_normal((SIZE, SIZE), dtype=np.float32) + 0.8 * _cloud(rng, 3, 3)
    return _tinted(2, grains, (0.06, 0.06, 0.05))


def _bricks(rng: np.random.Generator) -> Floats:
    row = (np.arange(SIZE) + int(rng.integers(6))) // 6
    shift = int(rng.integers(10))
    column = np.arange(SIZE)[None, :] + shift + 5 * (row[:, None] % 2)
    first = np.diff(row, prepend=row[0]) != 0
    mortar = first[:, None] | (column % 10 == 0)
    tone = rng.uniform(-0.07, 0.07, (8, 8)).astype(np.float32)[row[:, None] % 8, column // 10 % 8]
    picture = _tinted(3, tone, (1.0, 0.8, 0.7))
    picture[mortar] = (0.74, 0.70, 0.66)
    return picture


def _sky(rng: np.random.Generator) -> Floats:
    clouds = np.clip(_cloud(rng, 4, 3) - 0.2, 0, 1)
    return _tinted(4, clouds, (0.30, 0.18, 0.05)) + (0.08 * Y)[..., None]


def _snow(rng: np.random.Generator) -> Floats:
    drifts = _cloud(rng, 4, 2)
    return _tinted(5, drifts, (-0.06, -0.045, -0.02))


def _lava(rng: np.random.Generator) -> Floats:
    veins = np.clip(1 - 3.2 * np.abs(_cloud(rng, 5, 5)), 0, 1)
    return _tinted(6, veins - 0.25, (0.62, 0.36, 0.04))


def _wood(rng: np.random.Generator) -> Floats:
    rings = np.sin(X * rng.uniform(12, 16) + 1.5 * _cloud(rng, 2, 3) + rng.uniform(0, 2 * np.pi))
    return _tinted(7, rings.astype(np.float32), (0.10, 0.07, 0.045))


TEXTURES: tuple[Callable[[np.random.Generator], Floats], ...] = (
    _grass,
    _water,
    _sand,
    _bricks,
    _sky,
    _snow,
    _lava,
    _wood,
)
