"""Who contradicts the bias: the training images on which the biased model loses most."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.synthesis.part import Part
from lightning_modules.errors import ConfigError
from lightning_modules.losses import cross_entropy
from lightning_modules.scoring import evaluated

LOGGER = logging.getLogger("diffubias")


class Miner(Part, ABC):
    """Chooses the pseudo bias-conflicting images."""

    @abstractmethod
    def select(self, losses: Tensor, labels: Tensor, top_k: int) -> list[int]:
        """Choose images.

        Args:
            losses: Cross-entropy of every training image, float [N], nats.
            labels: Class of every training image, int64 [N].
            top_k: How many, of each class or of the set.

        Returns:
            Positions in the training set, hardest first.
        """


class LossMiner(Miner):
    """Takes the K largest losses (DiffuBias, arXiv 2411.16079, section 3.2).

    Ranking by cross-entropy and by the true GCE gives the same order, both fall with the probability of the class.

    Args:
        scope: ``class`` takes K of every class, as the authors' code does; ``set`` takes K of all, as the paper says.
    """

    def __init__(self, scope: Literal["class", "set"] = "class") -> None:
        self.scope = scope

    def select(self, losses: Tensor, labels: Tensor, top_k: int) -> list[int]:
        """Choose by (-loss, index), so that equal losses have one order on every machine.

        Raises:
            ConfigError: ``top_k`` is not positive.
        """
        if top_k < 1:
            raise ConfigError(f"synthesize.top_k must be at least 1, got {top_k}")
        # A stable sort keeps equal losses in the order of their index.
        order = torch.sort(losses.double(), descending=True, stable=True).indices
        if self.scope == "set":
            if top_k > len(order):
                LOGGER.warning("top_k %d exceeds the %d training images: all are taken", top_k, len(order))
            return [int(index) for index in order[:top_k]]
        keep = torch.zeros(len(order), dtype=torch.bool)
        ordered_labels = labels[order]
        for label in torch.unique(labels):
            places = torch.nonzero(ordered_labels == label)[:, 0]
            if top_k > len(places):
                LOGGER.warning(
                    "top_k %d exceeds the %d images of class %d: the whole class is taken", top_k, len(places), label
                )
            keep[places[:top_k]] = True
        return [int(index) for index in order[keep]]


def mine_losses(module: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Measure the cross-entropy of every image that ``loader`` yields, in float32 and in evaluation mode.

    Args:
        module: Maps float [B, 3, H, W] to logits [B, C]; it must stand on ``device`` and its mode is restored.
        loader: Batches with ``image``, ``label`` and ``index``.
        device: Where to compute.

    Returns:
        Losses float32 [N] and indices int64 [N], on the CPU. Losses are rounded to 1e-5, since smaller differences are
        noise of the batch's composition: a tie then falls to the index, which keeps the ranking the same for other
        rank counts but for losses that noise carries over a rounding border.
    """
    losses, indices = evaluated(module, loader, device, cross_entropy)
    return torch.round(losses, decimals=5), indices


def check_finite(losses: Tensor) -> None:
    """Refuse losses by which nothing can be ranked.

    Raises:
        ConfigError: One of them is not a number, or infinite.
    """
    if not bool(torch.isfinite(losses).all()):
        raise ConfigError(
            "the biased model gives losses that are not finite: train it with a smaller lr or trainer.precision=32"
        )
