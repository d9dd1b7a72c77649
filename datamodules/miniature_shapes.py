"""Outlines of the Miniature's shapes, as signed distances: negative inside, about 1 apart from middle to edge."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def _circle(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.hypot(x, y) - 0.92
    return distance


def _square(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.maximum(np.abs(x), np.abs(y)) - 0.80
    return distance


def _triangle(x: Floats, y: Floats) -> Floats:
    y = y + 0.12
    distance: Floats = np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.60
    return distance


def _star(x: Floats, y: Floats) -> Floats:
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, y) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(x, y)
    tip, inner = 1.16, 0.52
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    edge = np.array([inner * np.cos(fifth / 2) - tip, inner * np.sin(fifth / 2)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    distance: Floats = (along - tip) * normal[0] + across * normal[1]
    return distance


def _heart(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x) / 1.72, (y + 0.92) / 1.72
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.3536
    low = np.maximum(x + y, 0) / 2
    point = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - low) ** 2 + (y - low) ** 2)) * np.sign(x - y)
    distance: Floats = 1.72 * np.where(x + y > 1, lobe, point)
    return distance


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    distance: Floats = np.minimum(np.maximum(x - 1.0, y - 0.35), np.maximum(x - 0.35, y - 1.0))
    return distance


def _ring(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.abs(np.hypot(x, y) - 0.72) - 0.26
    return distance


def _moon(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.maximum(np.hypot(x + 0.12, y) - 1.0, 0.80 - np.hypot(x - 0.42, y))
    return distance


DISTANCES: tuple[Callable[[Floats, Floats], Floats], ...] = (
    _circle,
    _square,
    _triangle,
    _star,
    _heart,
    _cross,
    _ring,
    _moon,
)
