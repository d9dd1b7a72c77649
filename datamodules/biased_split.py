"""The biased split of Learning from Failure: who is held out, and which bias attribute each image gets."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_modules.errors import ConfigError

Percent = Literal["0.5pct", "1pct", "2pct", "5pct"]
# share of bias-conflict training images in the sets of Nam et al. (2020)
RATIOS: dict[Percent, float] = {"0.5pct": 0.005, "1pct": 0.01, "2pct": 0.02, "5pct": 0.05}


def hold_out(labels: NDArray[np.int64], count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Holds out an exact number of images, stratified by class.

    Args:
        labels: Classes, int64 [N].
        count: Images to hold out, 0 to N; each class gives its share, rounded down or up.
        seed: Seed of the choice inside a class.

    Returns:
        Positions kept and positions held out, both ascending.
    """
    shuffled = np.random.default_rng([seed, 0x686F6C64]).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = np.zeros(len(labels), dtype=bool)
    # equal steps through the classes: systematic sampling
    held_out[by_class[np.arange(count) * len(labels) // max(count, 1)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def assign(
    labels: NDArray[np.int64], num_biases: int, share_aligned: float, seed: int | None = None
) -> NDArray[np.int64]:
    """Gives every image a bias attribute (Nam et al., Learning from Failure, NeurIPS 2020, released code).

    The share `share_aligned` of class c gets attribute c and every other attribute the same part of the rest: with the
    milestones m_k = round(n_c * cumulative share up to attribute k), the j-th image of class c gets the smallest k with
    m_k > j. In the released code the order is that of the files, so that the images in conflict are the first and the
    last of each class; neighbours in a file are often alike.

    Args:
        labels: Classes, int64 [N], each below `num_biases`.
        num_biases: Number of bias attributes, at least 2.
        share_aligned: Share of bias-aligned images, 0 to 1; 1 / num_biases makes bias and class independent.
        seed: Seed of the order in which the images of a class are counted; None counts them as they come.

    Returns:
        Bias attributes, int64 [N].
    """
    biases = np.empty_like(labels)
    count = len(labels)
    order = np.arange(count) if seed is None else np.random.default_rng([seed, 0x6F72]).permutation(count)
    for label in np.unique(labels):
        shares = np.full(num_biases, (1 - share_aligned) / (num_biases - 1))
        shares[label] = share_aligned
        members = order[labels[order] == label]
        milestones = np.round(len(members) * shares.cumsum())
        biases[members] = np.searchsorted(milestones, np.arange(len(members)), side="right")
    return biases


def check_ratio(conflict_ratio: float) -> None:
    """Raises a ConfigError when `data.conflict_ratio` is no share."""
    if not 0 <= conflict_ratio <= 1:
        raise ConfigError(f"data.conflict_ratio={conflict_ratio} must lie between 0 and 1 (5 % is 0.05)")


def check_conflicts(conflict_ratio: float, conflicts: int, total: int) -> None:
    """Raises a ConfigError when `data.conflict_ratio` asks for conflict images and so few that there is none."""
    if conflict_ratio > 0 and conflicts == 0:
        raise ConfigError(
            f"data.conflict_ratio={conflict_ratio} leaves no bias-conflict image among {total}; enlarge it, or give 0 "
            "for a set without any"
        )


def assign_training(
    labels: NDArray[np.int64], num_biases: int, conflict_ratio: float, seed: int | None = None
) -> NDArray[np.int64]:
    """Like `assign`, for the training set of a user's ratio.

    Args:
        labels: Classes, int64 [N], each below `num_biases`.
        num_biases: Number of bias attributes, at least 2.
        conflict_ratio: Share of bias-conflict images, 0 to 1.
        seed: As for `assign`.

    Returns:
        Bias attributes, int64 [N].

    Raises:
        ConfigError: The ratio is no share, or so small that no image is in conflict though some were asked for.
    """
    check_ratio(conflict_ratio)
    biases = assign(labels, num_biases, 1 - conflict_ratio, seed)
    check_conflicts(conflict_ratio, int((biases != labels).sum()), len(labels))
    return biases
