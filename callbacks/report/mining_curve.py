"""How well the largest losses find the images that contradict the bias, against how many are taken."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from callbacks.synthesis.losses import Losses


@dataclass(frozen=True)
class MiningCurve:
    """Precision and recall of mining the K largest losses.

    Attributes:
        k: Images mined, of each class or of the set, int64 [M], from 1 to all.
        precision: Share of bias-conflicting ones among the mined images whose bias is known, float64 [M].
        recall: Share of the known bias-conflicting images that are mined, float64 [M].
        chance: Share of bias-conflicting images in the training set: the precision of a random choice.
    """

    k: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    chance: float


def mining_curve(losses: Losses, scope: str) -> MiningCurve | None:
    """Trace precision and recall of the mining over all K.

    Args:
        losses: What the mining has measured.
        scope: ``class`` where K images of each class are taken, ``set`` where K of all.

    Returns:
        The curve at every K; None where no bias-conflicting image is known.
    """
    order = np.lexsort((np.arange(len(losses.loss)), -losses.loss.astype(np.float64)))
    rank = np.empty(len(order), dtype=np.int64)  # how many of its class, or of the set, have a larger loss
    rank[order] = _occurrence(losses.label[order] if scope == "class" else np.zeros_like(order))
    known, conflict = (
        np.bincount(rank[chosen], minlength=rank.max() + 1) for chosen in (losses.known, losses.conflict)
    )
    if not conflict.sum():
        return None
    found, seen = np.cumsum(conflict), np.cumsum(known)
    filled = seen > 0  # the hardest images may be of unknown bias
    k = np.arange(1, len(found) + 1)[filled]
    total = int(conflict.sum())
    return MiningCurve(k, (found / np.maximum(seen, 1))[filled], (found / total)[filled], total / int(known.sum()))


def _occurrence(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the value at each position has come before."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first = np.searchsorted(ordered, ordered, side="left")
    counts = np.empty_like(labels)
    counts[order] = np.arange(len(labels)) - first
    return counts
