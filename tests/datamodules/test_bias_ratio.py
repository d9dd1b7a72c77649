import numpy as np
import pytest

from datamodules import Samples
from datamodules.bias_ratio import check_bias_ratio, conflicts_kept, thin_conflicts
from datamodules.samples import Split
from lightning_modules.errors import ConfigError

# aligned images of a class, ratio, conflict images of the released splits of From Fake to Real
RELEASED_TRAIN = [
    *[(5335, ratio, kept) for ratio, kept in ((0.9, 592), (0.95, 281), (0.97, 166), (0.99, 54), (0.999, 6))],
    *[(7797, ratio, kept) for ratio, kept in ((0.9, 866), (0.95, 411), (0.97, 242), (0.99, 79), (0.999, 8))],
    *[(934, ratio, kept) for ratio, kept in ((0.9, 103), (0.95, 50), (0.97, 29), (0.99, 10), (0.999, 1))],
    *[(5731, ratio, kept) for ratio, kept in ((0.9, 636), (0.95, 302), (0.97, 178), (0.99, 58), (0.999, 6))],
    *[(10_000, ratio, kept) for ratio, kept in ((0.97, 310), (0.99, 102), (0.999, 11))],
]
RELEASED_VAL = [
    *[(666, ratio, kept) for ratio, kept in ((0.9, 73), (0.95, 36), (0.97, 21), (0.99, 10), (0.999, 10))],
    *[(989, ratio, kept) for ratio, kept in ((0.9, 109), (0.95, 53), (0.97, 31), (0.99, 10), (0.999, 10))],
    *[(119, ratio, kept) for ratio, kept in ((0.9, 13), (0.95, 10), (0.97, 10), (0.99, 10), (0.999, 10))],
    *[(724, ratio, kept) for ratio, kept in ((0.9, 80), (0.95, 39), (0.97, 23), (0.99, 10), (0.999, 10))],
    *[(500, ratio, kept) for ratio, kept in ((0.97, 16), (0.99, 10), (0.999, 10))],
]


@pytest.mark.parametrize(("aligned", "ratio", "kept"), RELEASED_TRAIN)
def test_training_counts_of_the_released_splits(aligned: int, ratio: float, kept: int) -> None:
    assert conflicts_kept(aligned, ratio) == kept


@pytest.mark.parametrize(("aligned", "ratio", "kept"), RELEASED_VAL)
def test_validation_counts_of_the_released_splits(aligned: int, ratio: float, kept: int) -> None:
    assert conflicts_kept(aligned, ratio, least=10) == kept


def a_split(aligned: int = 200, conflict: int = 50) -> Samples:
    """Two classes; the picture of a sample is its number."""
    labels = np.repeat([0, 1], aligned + conflict)
    biases = np.where(np.tile(np.arange(aligned + conflict) < conflict, 2), 1 - labels, labels)
    images = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Samples(images, labels, biases)


def numbers(samples: Samples) -> list[int]:
    assert isinstance(samples.images, np.ndarray)
    return [256 * int(high) + int(low) for high, low in samples.images[:, 0, 0, :2]]


def test_conflict_images_of_every_class_are_left_out() -> None:
    thin = thin_conflicts(a_split(), 0.95, "train", seed=0)
    for label in (0, 1):
        assert ((thin.labels == label) & (thin.biases == label)).sum() == 200
        assert ((thin.labels == label) & (thin.biases != label)).sum() == 11  # 200 / 19 rounded up
    assert numbers(thin) == sorted(numbers(thin))


@pytest.mark.parametrize(("split", "conflicts"), [("train", 3), ("val", 10), ("test", 50)])
def test_splits(split: Split, conflicts: int) -> None:
    thin = thin_conflicts(a_split(), 0.99, split, seed=0)
    assert (thin.labels != thin.biases).sum() == 2 * conflicts


def test_choice_follows_the_seed_and_is_nested_over_the_ratios() -> None:
    low, high = (numbers(thin_conflicts(a_split(), ratio, "train", seed=1)) for ratio in (0.9, 0.97))
    assert set(high) < set(low)
    assert numbers(thin_conflicts(a_split(), 0.9, "train", seed=1)) == low
    assert numbers(thin_conflicts(a_split(), 0.9, "train", seed=2)) != low


def test_no_ratio_leaves_everything() -> None:
    assert len(thin_conflicts(a_split(), None, "train", seed=0)) == 500


def test_a_ratio_that_the_images_cannot_give() -> None:
    message = (
        r"^data\.bias_ratio=0\.9 takes 22 bias-conflict training images of class 0, which has 5 beside 200 "
        r"aligned ones, a ratio of 0\.976; give a higher ratio, or null for all images$"
    )
    with pytest.raises(ConfigError, match=message):
        thin_conflicts(a_split(conflict=5), 0.9, "train", seed=0)
    with pytest.raises(ConfigError, match=r"which has 0 beside 200 aligned ones, a ratio of 1\.000"):
        thin_conflicts(a_split(conflict=0), 0.99, "train", seed=0)
    # held-out images are as they are
    assert len(thin_conflicts(a_split(conflict=5), 0.9, "val", seed=0)) == 410


def test_a_ratio_is_met_to_two_digits() -> None:
    # as SpuCo Animals: 10,000 aligned and 500 conflict images, of which 0.95 would take 527
    assert len(thin_conflicts(a_split(conflict=10), 0.95, "train", seed=0)) == 420


@pytest.mark.parametrize("ratio", [0.3, 1.0, 5.0])
def test_impossible_ratios(ratio: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.bias_ratio={ratio} must be at least 0\.5 and below 1"):
        check_bias_ratio(ratio)
    check_bias_ratio(None)
