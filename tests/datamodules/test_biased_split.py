import numpy as np
import pytest

from datamodules.biased_split import RATIOS, assign, assign_training, check_ratio, hold_out
from lightning_modules.errors import ConfigError

# training images of MNIST, class by class
MNIST_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)


def test_assign_by_hand() -> None:
    # class 1 has 8 images and the shares 1/8, 3/4, 1/8, so the milestones 1, 7, 8; class 0 has 4 and 3, 3.5 -> 4, 4
    labels = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0])
    biases = assign(labels, 3, 0.75)
    assert biases[labels == 1].tolist() == [0, 1, 1, 1, 1, 1, 1, 2]
    assert biases[labels == 0].tolist() == [0, 0, 0, 1]
    assert biases.dtype == np.int64


def test_assign_uniformly() -> None:
    labels = np.repeat(np.arange(10), 100)
    biases = assign(labels, 10, 0.1)
    assert np.bincount(labels * 10 + biases).tolist() == [10] * 100
    assert biases[:100].tolist() == np.repeat(np.arange(10), 10).tolist()


@pytest.mark.parametrize(("share", "conflicts"), [(1.0, 0), (0.0, 60)])
def test_assign_at_the_ends(share: float, conflicts: int) -> None:
    labels = np.repeat(np.arange(3), 20)
    biases = assign(labels, 3, share)
    assert int((biases != labels).sum()) == conflicts
    assert set(biases.tolist()) == {0, 1, 2}


def test_more_attributes_than_classes() -> None:
    labels = np.repeat(np.arange(2), 90)
    table = np.bincount(labels * 4 + assign(labels, 4, 0.9), minlength=8).reshape(2, 4)
    assert table.tolist() == [[81, 3, 3, 3], [3, 81, 3, 3]]


def test_the_counts_of_cmnist() -> None:
    labels = np.repeat(np.arange(10), MNIST_COUNTS)
    kept, held_out = hold_out(labels, 5000, seed=0)
    assert (len(kept), len(held_out)) == (55000, 5000)
    conflicts = [int((assign(labels[kept], 10, 1 - ratio) != labels[kept]).sum()) for ratio in RATIOS.values()]
    assert conflicts == [273, 551, 1099, 2749]


def test_hold_out_is_stratified_exact_and_seeded() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [70, 25, 5]))
    kept, held_out = hold_out(labels, 20, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [14, 5, 1]
    assert sorted([*kept, *held_out]) == list(range(100))
    assert sorted(held_out) == held_out.tolist()
    assert hold_out(labels, 20, seed=3)[1].tolist() == held_out.tolist()
    assert hold_out(labels, 20, seed=4)[1].tolist() != held_out.tolist()
    for count in range(101):
        shares = np.bincount(labels[hold_out(labels, count, seed=1)[1]], minlength=3)
        assert int(shares.sum()) == count
        assert np.abs(shares - np.array([0.7, 0.25, 0.05]) * count).max() < 1


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_no_share(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"^data\.conflict_ratio=.* must lie between 0 and 1 \(5 % is 0\.05\)$"):
        check_ratio(ratio)


def test_ratio_that_the_data_cannot_give() -> None:
    labels = np.repeat(np.arange(2), 50)
    assert (assign_training(labels, 2, 0.02) != labels).sum() == 2
    assert (assign_training(labels, 2, 0.0) == labels).all()
    with pytest.raises(ConfigError, match=r"data\.conflict_ratio=0\.005 leaves no bias-conflict image among 100;"):
        assign_training(labels, 2, 0.005)


def test_a_seed_draws_who_is_in_conflict() -> None:
    labels = np.repeat(np.arange(10), 200)
    in_order, first, again, second = (assign(labels, 10, 0.95, seed) for seed in (None, 1, 1, 2))
    assert (first == again).all()
    assert (first != second).any()
    # the counts of all groups are those of the rule, only the images differ
    for biases in (first, second):
        assert (np.bincount(labels * 10 + biases) == np.bincount(labels * 10 + in_order)).all()
    # in the order of the files the images in conflict lie at the ends of their class; drawn, they lie everywhere
    middle = np.tile(np.arange(200), 10) // 50 % 3 > 0
    assert (in_order != labels)[middle].sum() == 0
    assert (first != labels)[middle].sum() > 30
