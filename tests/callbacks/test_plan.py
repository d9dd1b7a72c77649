import logging

import numpy as np
import pytest

from callbacks.synthesis.plan import Count, Prompt, make_seed, plan_groups, plan_images
from datamodules.samples import carve
from lightning_modules.errors import ConfigError

PROMPTS = [Prompt(1, 5, "b"), Prompt(0, 3, "a"), Prompt(1, 6, " "), Prompt(1, 7, "c")]


@pytest.mark.parametrize(("images", "expected"), [(3, "aaabcb"), ("aligned", "aabcbc"), ("captions", "abc")])
def test_classes_in_order_cycling_over_their_captions(images: Count, expected: str) -> None:
    planned = plan_images(PROMPTS, images, [3, 6], [1, 2])
    assert "".join(prompt.caption for prompt in planned) == expected
    assert all(prompt.label == (prompt.caption != "a") for prompt in planned)


def test_a_class_without_captions_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        planned = plan_images(PROMPTS[:1], 2, [3, 6], [1, 2])
    assert len(planned) == 2
    assert "class 0" in caplog.text


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no caption is left"):
        plan_images([Prompt(0, 0, " ")], 2, [3], [1])
    with pytest.raises(ConfigError, match="no synthetic image"):
        plan_images(PROMPTS[:1], "aligned", [3], [3])
    with pytest.raises(ConfigError, match=r"synthesize\.images"):
        plan_images(PROMPTS, 0, [3, 6], [1, 2])


def test_seeds_differ_and_are_stable() -> None:
    seeds = {make_seed(2, 0, number, attempt) for number in range(500) for attempt in range(3)}
    assert len(seeds) == 1500
    assert make_seed(2, 0, 1, 0) == make_seed(2, 0, 1, 0) < 2**32


GROUPS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def groups(*counts: int) -> list[tuple[int, int]]:
    """The class and bias attribute of every training image."""
    return [group for group, count in zip(GROUPS, counts, strict=True) for _ in range(count)]


def planned_counts(images: Count, training: list[tuple[int, int]], with_bias: bool = True) -> list[int]:
    prompts = [Prompt(label, -1, f"{label} {bias}", bias if with_bias else -1) for label, bias in GROUPS]
    planned = plan_groups(prompts, images, training)
    own = [(prompt.label, prompt.bias) for prompt in planned]
    return [own.count(group) for group in (GROUPS if with_bias else [(0, -1), (1, -1)])]


@pytest.mark.parametrize(
    ("counts", "total", "each"),
    [((592, 5335, 7797, 866), 16598, 4149), ((6, 5335, 7797, 8), 18042, 4510), ((103, 934, 5731, 636), 15520, 3880)],
)
def test_groups_are_filled_as_in_from_fake_to_real(counts: tuple[int, ...], total: int, each: int) -> None:
    """The totals of its released splits: CelebA-HQ with bias 0.9 and 0.999, UTKFace with 0.9."""
    uniform = planned_counts("uniform", groups(*counts))
    assert sum(uniform) == total
    assert [own + more for own, more in zip(counts, uniform, strict=True)] == [max(counts)] * 4
    assert planned_counts("additive", groups(*counts)) == [each] * 4


def test_what_is_held_out_is_drawn_on_top() -> None:
    training = groups(100, 5, 5, 100)
    prompts = [Prompt(label, -1, "", bias) for label, bias in GROUPS]
    planned = plan_groups(prompts, "uniform", training, held_out=0.05)
    assert len(planned) == 200  # 95 a group are left of 100
    assert len(plan_groups(prompts, 3, training, held_out=0.05)) == 12


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_what_is_left_to_train_on_levels_the_groups(share: float) -> None:
    prompts = [Prompt(label, -1, "", bias) for label, bias in GROUPS]
    for wanted in range(1, 120):
        planned = plan_groups(prompts, "uniform", groups(wanted, 0, wanted, wanted), held_out=share)
        left, _ = carve(np.zeros(len(planned), np.int64), share, seed=0)
        assert len(left) == wanted


def test_a_number_is_one_of_every_group() -> None:
    assert planned_counts(3, groups(1, 2, 3, 4)) == [3] * 4
    assert planned_counts("captions", groups(1, 2, 3, 4)) == [1] * 4


def test_without_a_bias_attribute_a_class_is_a_group() -> None:
    assert planned_counts(3, [(0, -1), (1, -1)], with_bias=False) == [3, 3]
    assert planned_counts("uniform", groups(1, 2, 3, 4), with_bias=False) == [4, 0]
    assert planned_counts("additive", groups(1, 2, 3, 4), with_bias=False) == [2, 2]


def test_groups_cycle_over_their_prompts() -> None:
    prompts = [Prompt(0, -1, "a"), Prompt(1, -1, "b"), Prompt(0, -1, "c")]
    assert [prompt.caption for prompt in plan_groups(prompts, 3, [(0, 0), (1, 0)])] == ["a", "c", "a", "b", "b", "b"]


@pytest.mark.parametrize(
    ("images", "training", "message"),
    [
        ("aligned", groups(1, 2, 3, 4), "images=aligned"),
        (0, groups(1, 2, 3, 4), "images=0"),
        ("uniform", [(0, 0), (1, -1)], "not all known"),
        ("uniform", groups(2, 2, 2, 2), "groups are level"),
    ],
)
def test_what_cannot_be_planned_is_named(images: Count, training: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"synthesize\.images.*{message.removeprefix('images')}"):
        planned_counts(images, training)


@pytest.mark.parametrize("images", ["uniform", "additive"])
def test_captions_have_no_groups(images: Count) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.images"):
        plan_images(PROMPTS, images, [3, 6], [1, 2])
