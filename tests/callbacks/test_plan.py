import logging

import pytest

from callbacks.synthesis.plan import Count, Prompt, make_seed, plan_images
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
    with pytest.raises(ConfigError, match="no synthetic image"):
        plan_images([], 2, [3], [1])
    with pytest.raises(ConfigError, match=r"synthesize\.images"):
        plan_images(PROMPTS, 0, [3, 6], [1, 2])


def test_seeds_differ_and_are_stable() -> None:
    seeds = {make_seed(2, 0, number, attempt) for number in range(500) for attempt in range(3)}
    assert len(seeds) == 1500
    assert make_seed(2, 0, 1, 0) == make_seed(2, 0, 1, 0) < 2**32
