"""The loss of every training image under the biased model, kept beside the selection that was made from it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from callbacks.synthesis.files import write_bytes
from callbacks.synthesis.manifest import LOSSES
from lightning_modules.errors import ConfigError


@dataclass(frozen=True)
class Losses:
    """What the mining has measured; position i is training image i.

    Attributes:
        loss: Cross-entropy under the biased model, float32 [N], nats.
        label: Class, int64 [N].
        bias: Bias attribute, int64 [N], -1 where unknown.
        aligned_bias: The bias attribute that goes with each class, int64 [C].
    """

    loss: NDArray[np.float32]
    label: NDArray[np.int64]
    bias: NDArray[np.int64]
    aligned_bias: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the bias attribute of an image is known [N]."""
        return self.bias >= 0

    @property
    def conflict(self) -> NDArray[np.bool_]:
        """Whether an image is known to contradict the bias [N]."""
        return np.asarray(self.known & (self.bias != self.aligned_bias[self.label]))

    def lowest(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Choose the images that the biased model finds easiest.

        Args:
            count: At most this many of each class.
            without: Images to leave out, such as the mined ones.

        Returns:
            Positions in the training set, class after class, each by (loss, index).
        """
        order = np.argsort(self.loss, kind="stable")
        order = order[~np.isin(order, list(without))]
        classes = np.unique(self.label)
        return [int(index) for label in classes for index in order[self.label[order] == label][:count]]


def write_losses(directory: Path, losses: Losses) -> None:
    """Write ``losses.safetensors`` atomically.

    Raises:
        ConfigError: The disk is full.
    """
    write_bytes(directory / LOSSES, save({name: np.ascontiguousarray(own) for name, own in vars(losses).items()}))


def read_losses(directory: Path) -> Losses | None:
    """Read what the mining has measured; None where it left no such file, as it did before there was this one.

    Raises:
        ConfigError: The file is damaged.
    """
    path = directory / LOSSES
    if not path.is_file():
        return None
    try:
        return Losses(**load_file(path))
    except (SafetensorError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it, only the report needs it") from error
