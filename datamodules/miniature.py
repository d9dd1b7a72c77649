"""The embedded default: coloured shapes on textured backgrounds, drawn when they are needed."""

from typing import Any

from datamodules.augment import Augment, Padding
from datamodules.base import DebiasDataModule
from datamodules.biased_split import check_conflicts, check_ratio
from datamodules.miniature_world import BACKGROUNDS, BUILD_SEED, SHAPES, SIZE, biased_groups, render
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Miniature(DebiasDataModule):
    """Eight shapes (the class) on eight backgrounds (the bias) at 32 x 32 pixels; nothing is downloaded.

    The validation set is as biased as the training set, because an unbiased one is what nobody has. The test set is
    unbiased: background and shape are independent, so 7 of 8 images are in conflict. The three splits are drawn from
    different seeds. `conflict_ratio=0.875` makes an unbiased training set, the oracle.

    Args:
        train_size: Training images.
        test_size: Test images.
        val_size: Validation images.
        conflict_ratio: Share of training and validation images whose background does not go with their shape.
        batch_size: Samples in a batch of one process.
        image_size: Side of the input, in pixels; the world is drawn at 32 and resized if this differs.
        augment: Random changes of training images.
        crop_padding: What `crop_flip` pads with; a black border would be a background of its own.
        **kwargs: Arguments of `DebiasDataModule`.
    """

    def __init__(
        self,
        *,
        train_size: int = 4000,
        test_size: int = 2048,
        val_size: int = 512,
        conflict_ratio: float = 0.05,
        batch_size: int = 64,
        image_size: int = SIZE,
        augment: Augment = "crop_flip",
        crop_padding: Padding = "mirror",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, image_size=image_size, augment=augment, crop_padding=crop_padding, **kwargs
        )
        self.sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        for split, size in self.sizes.items():
            if size < len(SHAPES):
                raise ConfigError(
                    f"data.{split}_size={size} is too small; give at least {len(SHAPES)}, one for each class"
                )
        check_ratio(conflict_ratio)
        check_conflicts(conflict_ratio, round(train_size * conflict_ratio), train_size)
        if self.seed * len(SPLITS) + len(SPLITS) > BUILD_SEED:
            raise ConfigError(
                f"data.seed={self.seed} is too large: the embedded models were trained on such seeds; stay below "
                f"{BUILD_SEED // len(SPLITS)}"
            )
        self.conflict_ratio = conflict_ratio

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the shapes."""
        return SHAPES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the backgrounds; background i goes with shape i."""
        return BACKGROUNDS

    def load(self, split: Split) -> Samples:
        """Draws one split."""
        # neighbouring seeds give unrelated pictures, so every (seed, split) gets a number of its own
        seed = self.seed * len(SPLITS) + SPLITS.index(split)
        ratio = 1 - 1 / len(BACKGROUNDS) if split == "test" else self.conflict_ratio
        labels, biases = biased_groups(self.sizes[split], ratio, seed)
        images, _ = render(labels, biases, seed)
        return Samples(images, labels, biases)
