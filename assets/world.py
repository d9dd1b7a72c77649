"""Balanced pictures of the Miniature's world with texts, which the embedded models learn from."""

from functools import cache
from typing import Any, Literal

from assets.training import HELD_OUT_SEED, balanced
from datamodules.augment import Augment
from datamodules.base import DebiasDataModule
from datamodules.miniature_world import BACKGROUNDS, BUILD_SEED, SHAPES, TEMPLATES, TERSE, Scene, describe
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


class World(DebiasDataModule):
    """Pictures in which shape, background and colour are as independent as the world allows.

    Their seeds are those that no data set uses.

    Args:
        train_size: Training images.
        val_size: Images in the validation and in the test set.
        wordings: Whether their texts are what a captioner shall say or what a generator may be asked for.
        image_size: Side of the input, in pixels.
        augment: Random changes of training images.
        **kwargs: Arguments of `DebiasDataModule`.
    """

    def __init__(
        self,
        *,
        train_size: int = 49_152,
        val_size: int = 512,
        wordings: Wording = "prompts",
        image_size: int = 32,
        augment: Augment = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, augment=augment, **kwargs)
        self.train_size, self.val_size, self.wordings = train_size, val_size, wordings

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the shapes."""
        return SHAPES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the backgrounds."""
        return BACKGROUNDS

    def load(self, split: Split) -> Samples:
        """Draws one split with its texts."""
        is_train = split == "train"
        data = balanced(*((self.train_size, BUILD_SEED) if is_train else (self.val_size, HELD_OUT_SEED)))
        shapes, backgrounds, _ = data.attributes.numpy().T
        texts = [_texts(self.wordings, Scene(*scene)) for scene in data.attributes.tolist()]
        return Samples(data.images.permute(0, 2, 3, 1).contiguous().numpy(), shapes, backgrounds, texts)


@cache
def _texts(wordings: Wording, scene: Scene) -> tuple[str, ...]:
    return tuple(describe(scene, template) for template in WORDINGS[wordings])
