"""How biased a training set is: bias-conflict images are left out until a ratio is reached, as in From Fake to Real."""

import math

import numpy as np

from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

# a validation set keeps so many conflict images of a class
LEAST_VAL = 10
# a ratio is met to two digits: SpuCo Animals with its 10,000 and 500 images counts as 0.95
TOLERANCE = 0.005


def check_bias_ratio(bias_ratio: float | None, lowest: float = 0.5) -> None:
    """Raises a ConfigError unless `data.bias_ratio` is None or from `lowest` to below 1."""
    if bias_ratio is not None and not lowest <= bias_ratio < 1:
        raise ConfigError(
            f"data.bias_ratio={bias_ratio} must be at least {lowest:g} and below 1 (0.99 is 99 % aligned)"
        )


def conflicts_kept(aligned: int, bias_ratio: float, least: int = 1) -> int:
    """How many bias-conflict images go with the aligned images of a class.

    Args:
        aligned: Aligned images of the class.
        bias_ratio: Wished share of aligned images, 0 to below 1.
        least: The least that is kept.

    Returns:
        aligned * (1 - r) / r, rounded as the released splits of From Fake to Real are (Qraitem et al., ECCV 2024):
        down at 0.9, up above it.
    """
    # their order of operations, because 666 images at 0.9 give 73.99999999999999
    rest = 1 - bias_ratio
    wished = (rest * aligned) / (1 - rest)
    return max(math.floor(wished) if bias_ratio <= 0.9 else math.ceil(wished), least)


def thin_conflicts(samples: Samples, bias_ratio: float | None, split: Split, seed: int) -> Samples:
    """Leaves out bias-conflict images (bias != label) of every class until `bias_ratio` of it is aligned.

    A higher ratio keeps some of the images that a lower one keeps. The test set is never cut; a validation set keeps
    at least 10 conflict images of each class.

    Args:
        samples: A split with known bias attributes.
        bias_ratio: Wished share of aligned images, 0 to below 1; None leaves all.
        split: Which split it is.
        seed: Seed of the choice.

    Returns:
        The split in the same order, without the images that were left out.

    Raises:
        ConfigError: A class of the training set has too few conflict images for the ratio.
    """
    if bias_ratio is None or split == "test":
        return samples
    kept = samples.labels == samples.biases
    for label in np.unique(samples.labels).tolist():
        conflicts = np.flatnonzero((samples.labels == label) & ~kept)
        aligned = int(np.sum((samples.labels == label) & kept))
        wished = conflicts_kept(aligned, bias_ratio, LEAST_VAL if split == "val" else 1)
        share = aligned / (aligned + len(conflicts))
        if split == "train" and wished > len(conflicts) and share > bias_ratio + TOLERANCE:
            raise ConfigError(
                f"data.bias_ratio={bias_ratio:g} takes {wished} bias-conflict training images of class {label}, which "
                f"has {len(conflicts)} beside {aligned} aligned ones, a ratio of {share:.3f}; give a higher ratio, or "
                "null for all images"
            )
        kept[np.random.default_rng([seed, 0x637574, label]).permutation(conflicts)[:wished]] = True
    return samples.select(np.flatnonzero(kept))
