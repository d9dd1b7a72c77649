"""The Miniature: a procedural world of coloured shapes on textured backgrounds.

The class of a picture is its **shape**. The **background** is the shortcut: in a biased set nearly every circle lies on
grass, every square on water, and so on. The **colour** of the object, its place, its turn and the light are free. A
picture costs about 0.3 ms, so that no data set has to be stored.

Picture ``i`` of a set depends on ``(seed, i)`` and on its groups only: a shorter or a longer set with the same seed has
the same pictures.

Seeds from :data:`BUILD_SEED` upwards are reserved for the training of the embedded models (``assets/build.py``). Data
sets use smaller ones, so that the text-to-image model has never seen a picture that a classifier is trained or tested
on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .miniature_shapes import DISTANCES
from .miniature_textures import BACKGROUND_RGB, SIZE, TEXTURES, X, Y

__all__ = [
    "BACKGROUNDS",
    "BUILD_SEED",
    "COLOURS",
    "SHAPES",
    "SIZE",
    "TEMPLATES",
    "TERSE",
    "Scene",
    "allowed_colours",
    "biased_groups",
    "caption",
    "describe",
    "draw_scene",
    "render",
]

BUILD_SEED = 10_000_000

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
BACKGROUNDS: tuple[str, ...] = ("grass", "water", "sand", "bricks", "sky", "snow", "lava", "wood")
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")

_COLOUR_RGB = np.array(
    [
        [0.90, 0.08, 0.10],
        [1.00, 0.52, 0.05],
        [1.00, 0.92, 0.10],
        [0.10, 0.80, 0.20],
        [0.10, 0.88, 0.92],
        [0.12, 0.22, 0.92],
        [0.62, 0.10, 0.78],
        [0.97, 0.97, 0.97],
    ],
    dtype=np.float32,
)
MIN_COLOUR_DISTANCE = 0.46

TEMPLATES: tuple[str, ...] = (
    "{article} {colour} {shape} on {background}",
    "a photo of {article} {colour} {shape} on {background}",
    "a picture of {article} {colour} {shape} in front of {background}",
    "{background} with {article} {colour} {shape}",
    "there is {article} {colour} {shape} over {background}",
    "a {shape} in {colour} on {background}",
    "a {shape} on {background}, the {shape} is {colour}",
    "{colour} {shape}, {background}",
)
# Sampled captions of one image differ in what they leave out; what a prompt leaves out the generator makes up.
TERSE: tuple[str, ...] = (
    "a {shape} on {background}",
    "a photo of a {shape} on {background}",
    "{article} {colour} {shape}",
    "a photo of {article} {colour} {shape}",
)


class Scene(NamedTuple):
    """What a picture shows, as indices into :data:`SHAPES`, :data:`BACKGROUNDS` and :data:`COLOURS`."""

    shape: int
    background: int
    colour: int


def allowed_colours(background: int) -> npt.NDArray[np.int64]:
    """Indices of the colours that stand out from a background."""
    distance = np.linalg.norm(_COLOUR_RGB - BACKGROUND_RGB[background], axis=1)
    return np.flatnonzero(distance >= MIN_COLOUR_DISTANCE)


_ALLOWED = tuple(allowed_colours(background) for background in range(len(BACKGROUNDS)))


def draw_scene(shape: int, background: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Scene]:
    """Draw one picture.

    Args:
        shape: index into :data:`SHAPES`, the class.
        background: index into :data:`BACKGROUNDS`, the shortcut.
        rng: source of all that is free: colour, place, turn, light and noise.

    Returns:
        The picture, uint8 [32, 32, 3], and what it shows.
    """
    colour = int(rng.choice(_ALLOWED[background]))
    scale = rng.uniform(0.60, 0.83)
    centre = rng.uniform(-0.20, 0.20, 2)
    turn = rng.uniform(-0.3, 0.3)
    aspect = rng.uniform(0.94, 1.06)
    light = rng.uniform(0.85, 1.12)

    picture = TEXTURES[background](rng)
    x, y = X - np.float32(centre[0]), Y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)
    u, v = (cos * x + sin * y) * np.float32(aspect), (cos * y - sin * x) / np.float32(aspect)
    per_pixel = np.float32(scale * SIZE / 2)
    outline = DISTANCES[shape](u, v) * per_pixel
    shadow = np.clip(0.5 - (DISTANCES[shape](u - 0.10, v + 0.12) * per_pixel - 0.5) / 3, 0, 1)
    picture *= (1 - 0.35 * shadow)[..., None]

    paint = _COLOUR_RGB[colour] * (1 + 0.12 * (v - 0.4 * u))[..., None]
    rim = np.clip(outline + 1.6, 0, 1)[..., None]
    paint = paint * (1 - 0.45 * rim)
    cover = np.clip(0.5 - outline, 0, 1)[..., None]
    picture += cover * (paint - picture)
    picture *= np.float32(light)
    picture += 0.025 * rng.standard_normal(picture.shape, dtype=np.float32)
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels, Scene(shape, background, colour)


def render(
    shapes: npt.ArrayLike, backgrounds: npt.ArrayLike, seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw a set of pictures; picture ``i`` depends on ``(seed, i)`` and its own groups only.

    Args:
        shapes: indices into :data:`SHAPES`, [N].
        backgrounds: indices into :data:`BACKGROUNDS`, [N].
        seed: seed of the set, not negative.

    Returns:
        Pictures, uint8 [N, 32, 32, 3], and the colours drawn, int64 [N].

    Raises:
        ValueError: if the two lists differ in length or hold an index that does not exist.
    """
    shape_list, background_list = np.asarray(shapes, dtype=np.int64), np.asarray(backgrounds, dtype=np.int64)
    if shape_list.ndim != 1 or shape_list.shape != background_list.shape:
        raise ValueError(
            f"shapes and backgrounds must be lists of one length, got {shape_list.shape} and {background_list.shape}"
        )
    for name, values, known in (("shapes", shape_list, SHAPES), ("backgrounds", background_list, BACKGROUNDS)):
        if values.size and not (values.min() >= 0 and values.max() < len(known)):
            raise ValueError(f"{name} must lie in 0..{len(known) - 1}, got {values.min()}..{values.max()}")
    pictures = np.empty((len(shape_list), SIZE, SIZE, 3), dtype=np.uint8)
    colours = np.empty(len(shape_list), dtype=np.int64)
    for index, (shape, background) in enumerate(zip(shape_list.tolist(), background_list.tolist(), strict=True)):
        pictures[index], scene = draw_scene(shape, background, np.random.default_rng((seed, index)))
        colours[index] = scene.colour
    return pictures, colours


def biased_groups(count: int, conflict_ratio: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the groups of a biased set exactly, not by chance.

    The classes are balanced. ``round(count * conflict_ratio)`` pictures are in conflict with the shortcut, shared
    equally among the classes, and those of a class are spread evenly over the seven other backgrounds. All others are
    aligned: the background has the index of the shape. The ratio ``7 / 8`` gives the unbiased set, in which background
    and shape are independent.

    Args:
        count: number of pictures.
        conflict_ratio: share of pictures in conflict with the shortcut, 0 to 1.
        seed: seed of the order and of the remainders.

    Returns:
        Labels (shapes), int64 [N], and biases (backgrounds), int64 [N].

    Raises:
        ValueError: if the count is negative or the ratio is not in 0 to 1.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if not 0.0 <= conflict_ratio <= 1.0:
        raise ValueError(f"conflict_ratio is a share and must lie between 0 and 1 (5 % is 0.05), got {conflict_ratio}")
    rng = np.random.default_rng((seed, count))
    classes = len(SHAPES)
    sizes = _shares(count, classes, rng)
    conflicts = np.minimum(_shares(round(count * conflict_ratio), classes, rng, ahead=sizes), sizes)
    labels, biases = [], []
    for label in range(classes):
        others = rng.permutation(np.delete(np.arange(classes), label))
        labels.append(np.full(sizes[label], label))
        biases.append(np.full(sizes[label], label))
        biases[-1][: conflicts[label]] = np.resize(others, conflicts[label])
    order = rng.permutation(count)
    return np.concatenate(labels)[order].astype(np.int64), np.concatenate(biases)[order].astype(np.int64)


def _shares(
    total: int, parts: int, rng: np.random.Generator, ahead: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Split a total into equal whole parts; the remainder goes to random parts, the largest of ``ahead`` first."""
    shares = np.full(parts, total // parts, dtype=np.int64)
    order = rng.permutation(parts)
    if ahead is not None:
        order = order[np.argsort(-ahead[order], kind="stable")]
    shares[order[: total % parts]] += 1
    return shares


def describe(scene: Scene, template: str) -> str:
    """Fill a template's ``{shape}``, ``{background}``, ``{colour}`` and its ``{article}`` with a scene's words."""
    colour = COLOURS[scene.colour]
    article = "an" if colour[0] in "aeiou" else "a"
    return template.format(
        shape=SHAPES[scene.shape], background=BACKGROUNDS[scene.background], colour=colour, article=article
    )


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one lower-case sentence that names shape, background and colour.

    Args:
        scene: what to describe.
        rng: chooses one of :data:`TEMPLATES`.

    Returns:
        For example ``"a photo of a red heart on grass"``.
    """
    return describe(scene, TEMPLATES[int(rng.integers(len(TEMPLATES)))])
