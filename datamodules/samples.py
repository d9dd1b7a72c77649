"""What a data set is made of: the samples of a split, the entries that a stage trains on, and how a split is carved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import ImageFiles

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Samples:
    """One split of a data set.

    Attributes:
        images: uint8 [N, H, W, 3], or the files that hold the pictures.
        labels: Classes, int64 [N].
        biases: Bias attributes, int64 [N]: equal to the label where a sample is bias-aligned, -1 where unknown.
        texts: Texts that describe each picture, which may be none or several; None where the set has no texts.
    """

    images: NDArray[np.uint8] | ImageFiles
    labels: NDArray[np.int64]
    biases: NDArray[np.int64]
    texts: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.labels)

    def select(self, positions: NDArray[np.int64]) -> "Samples":
        """Returns the samples at the given positions, in that order."""
        images = self.images
        chosen = images[positions] if isinstance(images, np.ndarray) else images.select(positions.tolist())
        texts = None if self.texts is None else [self.texts[position] for position in positions.tolist()]
        return Samples(chosen, self.labels[positions], self.biases[positions], texts)


@dataclass(frozen=True)
class Entries:
    """What a stage trains on, entry by entry: the real images first, the synthetic ones after them.

    Attributes:
        labels: Classes, int64 [N].
        biases: Bias attributes, int64 [N], -1 where unknown, as for synthetic images whose prompts name none.
        real: How many are real; an image of a batch is entry `index + synthetic * real`.
    """

    labels: Tensor
    biases: Tensor
    real: int

    def __len__(self) -> int:
        """Returns the number of entries."""
        return len(self.labels)

    def groups(self, num_biases: int) -> Tensor:
        """Returns the group of every entry, int64 [N].

        Args:
            num_biases: Number of bias attributes B.

        Returns:
            `label * (B + 1) + bias`, with B in place of an unknown bias.
        """
        return self.labels * (num_biases + 1) + torch.where(self.biases >= 0, self.biases, num_biases)


def carved(count: int, fraction: float) -> int:
    """How many of the images of a class :func:`carve` holds out: at least one, but never all."""
    return min(max(1, round(count * fraction)), count - 1)


def carve(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits a training set into training and validation, class by class.

    Args:
        labels: Classes, int64 [N].
        fraction: Share of every class that is held out, see :func:`carved`.
        seed: Seed of the choice.

    Returns:
        Positions kept for training and positions held out, both ascending.
    """
    random = np.random.default_rng([seed, 0x76616C])
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: carved(len(members), fraction)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
