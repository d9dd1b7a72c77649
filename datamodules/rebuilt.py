"""What CMNIST and Corrupted CIFAR-10 share: they are built from an unbiased set, or read as they were released."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.base import DebiasDataModule
from datamodules.biased_split import RATIOS, Percent, assign, assign_training, check_ratio, hold_out
from datamodules.release import Release, find_release
from datamodules.samples import Samples, Split


class Rebuilt(DebiasDataModule):
    """Base of the sets that Learning from Failure makes of an unbiased set: attribute i goes with class i.

    A part of the training images (stratified by class) is the validation set, as biased as the training set. In the
    test set attribute and class are independent.

    Args:
        root: The folder of the files.
        percent: Share of bias-conflict training images.
        conflict_ratio: Another share of bias-conflict training images, 0 to 1, instead of `percent`; 0.9 makes an
            unbiased training set, the oracle.
        shuffle: Draw by `seed` which images are in conflict. False takes the first and the last of each class in the
            order of the files, as the code of Learning from Failure does: neighbours in a file are often alike.
        download: Fetch the unbiased set into root when it is not there.
        batch_size: Samples in a batch of one process.
        cache: Keep decoded pictures of the released files in memory; what is built is in memory anyway.
        **kwargs: Arguments of `DebiasDataModule`.
    """

    RELEASE: ClassVar[str]
    """What the release calls the set."""
    VAL_SHARE: ClassVar[float]
    """Share of the training images that becomes the validation set."""

    def __init__(
        self,
        root: Path,
        *,
        percent: Percent = "0.5pct",
        conflict_ratio: float | None = None,
        shuffle: bool = True,
        download: bool = False,
        batch_size: int = 256,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, cache=cache, **kwargs)
        if conflict_ratio is not None:
            check_ratio(conflict_ratio)
        self.root = Path(root).expanduser()
        self.percent: Percent = percent
        self.conflict_ratio = conflict_ratio
        self.shuffle = shuffle
        self.download = download

    @property
    def _asks_for_release(self) -> bool:
        """Whether all settings are those of the released files."""
        return self.conflict_ratio is None

    @cached_property
    def _release(self) -> Release | None:
        if not self._asks_for_release:
            return None
        return find_release(self.root, self.RELEASE, self.percent, self.class_names)

    def load(self, split: Split) -> Samples | None:
        """Builds one split, or lists the released files."""
        return self._build(split) if self._release is None else self._release.load(split)

    @abstractmethod
    def _build(self, split: Split) -> Samples:
        """Gives one split with its biases."""

    def _positions(self, split: Split, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which images of a file belong to a split, int64, by the classes [N] of all of them."""
        if split == "test":
            return np.arange(len(labels))
        kept, held_out = hold_out(labels, round(len(labels) * self.VAL_SHARE), self.seed)
        return kept if split == "train" else held_out

    def _biases(self, split: Split, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bias attributes of the images of a split, int64 [N], by their classes [N]."""
        order = self.seed if self.shuffle else None
        count = len(self.bias_names)
        ratio = RATIOS[self.percent] if self.conflict_ratio is None else self.conflict_ratio
        if split == "train":
            return assign_training(labels, count, ratio, order)
        return assign(labels, count, 1 / count if split == "test" else 1 - ratio, order)
