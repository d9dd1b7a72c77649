"""Balanced pictures of the Miniature's world with texts, which the embedded models learn from."""

from functools import cache
from typing import Any, Literal

from assets.training import HELD_OUT_SEED, balanced
from datamodules.miniature import Miniature
from datamodules.miniature_world import BACKGROUNDS, BUILD_SEED, TEMPLATES, TERSE, Scene, describe
from datamodules.samples import Samples, Split

__all__ = ["WORDINGS", "World"]

Wording = Literal["prompts", "captions"]
# How often a template comes is how often it stands here. Of the captions a third leave the colour out and a sixth the
# background; prompts may also ask for a shape or a background alone.
WORDINGS: dict[Wording, tuple[str, ...]] = {
    "captions": (*TEMPLATES, *TERSE[:2] * 3, *TERSE[2:]),
    "prompts": (
        *TEMPLATES * 2,
        *TERSE,
        "a {shape}",
        "a photo of a {shape}",
        "{colour} {shape} {background}",
        "a photo of {background}",
    ),
}


class World(Miniature):
    """Pictures in which shape, background and colour are as independent as the world allows.

    Their seeds are those that no data set uses.

    Args:
        wordings: Whether their texts are what a captioner shall say or what a generator may be asked for.
        **kwargs: Arguments of `Miniature`.
    """

    def __init__(self, *, wordings: Wording = "prompts", **kwargs: Any) -> None:
        super().__init__(conflict_ratio=1 - 1 / len(BACKGROUNDS), **kwargs)
        self.wordings = wordings

    def load(self, split: Split) -> Samples:
        """Draws one split with its texts."""
        data = balanced(self.sizes[split], BUILD_SEED if split == "train" else HELD_OUT_SEED)
        shapes, backgrounds, _ = data.attributes.numpy().T
        texts = [_texts(self.wordings, Scene(*scene)) for scene in data.attributes.tolist()]
        return Samples(data.images.permute(0, 2, 3, 1).contiguous().numpy(), shapes, backgrounds, texts)


@cache
def _texts(wordings: Wording, scene: Scene) -> tuple[str, ...]:
    return tuple(describe(scene, template) for template in WORDINGS[wordings])
