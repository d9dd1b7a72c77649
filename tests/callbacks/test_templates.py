from typing import Any

import pytest

from callbacks.synthesis import Templates
from lightning_modules.errors import ConfigError

CLASSES, BIASES = ("cat", "dog"), ("dark", "bright")


def test_the_default_is_the_name_of_the_class() -> None:
    prompts = Templates().prompts(CLASSES, BIASES)
    assert [(prompt.label, prompt.bias, prompt.caption) for prompt in prompts] == [(0, -1, "cat"), (1, -1, "dog")]
    assert Templates().prompts(CLASSES, ()) == prompts


def test_every_slot_is_filled_in_every_way() -> None:
    templates = Templates(
        ["a {bias} {class}", "{class}, {bias}"], {"cat": ["cat", "kitten"]}, {"dark": ["black", "grey"]}
    )
    prompts = templates.prompts(CLASSES, BIASES)
    own = [(prompt.label, prompt.bias, prompt.caption) for prompt in prompts]
    assert own[:5] == [
        (0, 0, "a black cat"), (0, 0, "a grey cat"), (0, 0, "a black kitten"), (0, 0, "a grey kitten"),
        (0, 0, "cat, black"),
    ]  # fmt: skip
    assert own[-2:] == [(1, 1, "a bright dog"), (1, 1, "dog, bright")]
    assert len(own) == len(set(own)) == 8 + 4 + 4 + 2


def test_a_class_may_be_drawn_with_some_bias_attributes_only() -> None:
    prompts = Templates(["{class} {bias}"], pairs={"cat": ["bright"]}).prompts(CLASSES, BIASES)
    assert [prompt.caption for prompt in prompts] == ["cat bright", "dog dark", "dog bright"]


def test_words_without_meaning() -> None:
    prompts = Templates(["{class} {word}", "{class}"], words=["sky", "spoon"]).prompts(CLASSES, ())
    assert [prompt.caption for prompt in prompts] == ["cat sky", "cat spoon", "cat", "dog sky", "dog spoon", "dog"]


@pytest.mark.parametrize(
    ("options", "biases", "message"),
    [
        ({"templates": ["a photo"]}, (), r"prompts\.templates: 'a photo'"),
        ({"templates": ["{class} {word}"]}, (), r"prompts\.words is empty"),
        ({"classes": {"cow": ["cow"]}}, (), r"prompts\.classes: the data have no 'cow', only 'cat', 'dog'"),
        ({"biases": {"red": ["red"]}}, BIASES, r"prompts\.biases: the data have no 'red'"),
        ({"pairs": {"cow": ["dark"]}}, BIASES, r"prompts\.pairs: the data have no 'cow'"),
        ({"pairs": {"cat": ["red"]}}, BIASES, r"prompts\.pairs: the data have no 'red', only 'dark', 'bright'"),
        ({"biases": {"dark": ["black"]}}, BIASES, r"prompts\.templates: words are given for {bias}"),
        ({"pairs": {"cat": ["dark"]}}, BIASES, r"prompts\.templates: words are given for {bias}"),
        ({"words": ["sky"]}, BIASES, r"prompts\.templates: words are given for {word}"),
        ({"classes": {"cat": []}}, (), r"prompts\.classes: 'cat' has no word"),
        ({"templates": ["{class} {bias}"]}, (), r"do not name bias attributes"),
        ({"templates": ["{class} {bias}", "{class}"]}, BIASES, "either all have"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], biases: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Templates(**options).prompts(CLASSES, biases)
