"""The procedural world: what a picture depends on, exact groups, colours that stand out, true captions."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.miniature_shapes import DISTANCES
from datamodules.miniature_textures import BACKGROUND_RGB, X, Y
from datamodules.miniature_world import (
    _COLOUR_RGB,
    BACKGROUNDS,
    BUILD_SEED,
    COLOURS,
    MIN_COLOUR_DISTANCE,
    SHAPES,
    SIZE,
    TEMPLATES,
    Scene,
    allowed_colours,
    biased_groups,
    caption,
    describe,
    draw_scene,
    render,
)

PAIRS = np.array([(shape, background) for shape in range(8) for background in range(8)])


def test_picture_depends_on_seed_and_index_only() -> None:
    shapes, backgrounds = PAIRS[:, 0], PAIRS[:, 1]
    pictures, colours = render(shapes, backgrounds, seed=5)
    again, colours_again = render(shapes, backgrounds, seed=5)
    assert pictures.shape == (64, SIZE, SIZE, 3)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, again)
    np.testing.assert_array_equal(colours, colours_again)

    first, _ = render(shapes[:10], backgrounds[:10], seed=5)
    np.testing.assert_array_equal(first, pictures[:10])

    changed = backgrounds.copy()
    changed[0] = (changed[0] + 1) % 8
    other, _ = render(shapes, changed, seed=5)
    assert (other[0] != pictures[0]).any()
    np.testing.assert_array_equal(other[1:], pictures[1:])


def test_seeds_and_indices_give_different_pictures() -> None:
    same_groups, _ = render([4] * 6, [0] * 6, seed=1)
    other_seed, _ = render([4] * 6, [0] * 6, seed=2)
    everything = np.concatenate([same_groups, other_seed]).reshape(12, -1)
    assert len(np.unique(everything, axis=0)) == 12


def test_draw_scene_uses_the_generator_that_it_is_given() -> None:
    picture, scene = draw_scene(2, 6, np.random.default_rng((9, 0)))
    batch, colours = render([2], [6], seed=9)
    np.testing.assert_array_equal(picture, batch[0])
    assert scene == Scene(2, 6, int(colours[0]))


def test_every_shape_covers_a_fair_part_of_the_picture_and_differs_from_the_others() -> None:
    inside = {name: distance(X / 0.75, Y / 0.75) < 0 for name, distance in zip(SHAPES, DISTANCES, strict=True)}
    for name, mask in inside.items():
        assert 0.1 < mask.mean() < 0.5, name
        for other, other_mask in inside.items():
            overlap = (mask & other_mask).sum() / (mask | other_mask).sum()
            assert name == other or overlap < 0.86, (name, other, overlap)


@pytest.mark.parametrize("background", range(8))
def test_colours_stand_out_from_the_background(background: int) -> None:
    allowed = allowed_colours(background)
    distance = np.linalg.norm(_COLOUR_RGB[allowed] - BACKGROUND_RGB[background], axis=1)
    assert distance.min() >= MIN_COLOUR_DISTANCE
    assert len(allowed) >= 6, "too few colours are left"
    _, colours = render([0] * 200, [background] * 200, seed=11)
    assert set(colours.tolist()) == set(allowed.tolist())


@pytest.mark.parametrize(
    ("count", "ratio"),
    [(4000, 0.05), (4000, 0.01), (1000, 0.005), (999, 0.02), (4096, 7 / 8), (8, 0.0), (80, 1.0), (0, 0.5)],
)
def test_biased_groups_have_exact_counts(count: int, ratio: float) -> None:
    labels, biases = biased_groups(count, ratio, seed=7)
    assert labels.shape == biases.shape == (count,)
    assert labels.dtype == biases.dtype == np.int64
    sizes = np.bincount(labels, minlength=8)
    assert sizes.max() - sizes.min() <= 1
    assert int((labels != biases).sum()) == round(count * ratio)
    conflicts = np.bincount(labels[labels != biases], minlength=8)
    assert conflicts.max() - conflicts.min() <= 1
    for label in range(8):
        spread = np.bincount(biases[(labels == label) & (biases != label)], minlength=8)
        others = np.delete(spread, label)
        assert spread[label] == 0
        assert others.max() - others.min() <= 1


def test_seven_eighths_is_the_unbiased_set() -> None:
    labels, biases = biased_groups(6400, 7 / 8, seed=0)
    table = np.zeros((8, 8), dtype=int)
    np.add.at(table, (labels, biases), 1)
    assert (table == 100).all()


def test_biased_groups_are_shuffled_and_reproducible() -> None:
    labels, biases = biased_groups(800, 0.05, seed=1)
    again = biased_groups(800, 0.05, seed=1)
    other = biased_groups(800, 0.05, seed=2)
    np.testing.assert_array_equal(labels, again[0])
    np.testing.assert_array_equal(biases, again[1])
    assert (labels != other[0]).any()
    assert len(set(labels[:40].tolist())) == 8, "the order must mix the classes"


@pytest.mark.parametrize("ratio", [-0.01, 1.01, 5.0, float("nan")])
def test_invalid_ratio_is_named(ratio: float) -> None:
    with pytest.raises(ValueError, match="conflict_ratio is a share and must lie between 0 and 1"):
        biased_groups(100, ratio, seed=0)


def test_invalid_counts_and_indices_are_named() -> None:
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        biased_groups(-1, 0.1, seed=0)
    with pytest.raises(ValueError, match="lists of one length"):
        render([0, 1], [0], seed=0)
    with pytest.raises(ValueError, match=r"backgrounds must lie in 0\.\.7, got 8\.\.8"):
        render([0], [8], seed=0)


def test_captions_name_the_scene() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for index in range(400):
        scene = Scene(index % 8, index // 8 % 8, index // 64 % 8)
        text = caption(scene, rng)
        words = text.replace(",", " ").split()
        assert text == text.lower()
        for name, names in (
            (SHAPES[scene.shape], SHAPES),
            (BACKGROUNDS[scene.background], BACKGROUNDS),
            (COLOURS[scene.colour], COLOURS),
        ):
            assert [word for word in names if word in words] == [name], text
        seen.add(
            text.replace(SHAPES[scene.shape], "S")
            .replace(BACKGROUNDS[scene.background], "B")
            .replace(COLOURS[scene.colour], "C")
            .replace("an C", "a C")
        )
    assert len(seen) == len(TEMPLATES)


def test_describe_chooses_the_article() -> None:
    assert describe(Scene(4, 0, COLOURS.index("orange")), TEMPLATES[0]) == "an orange heart on grass"
    assert describe(Scene(4, 0, COLOURS.index("red")), TEMPLATES[1]) == "a photo of a red heart on grass"


def test_build_seeds_are_out_of_the_way() -> None:
    assert BUILD_SEED == 10_000_000
