import numpy as np
import pytest
import torch

from callbacks.report.mining_curve import mining_curve
from callbacks.synthesis import LossMiner
from callbacks.synthesis.losses import Losses


def test_by_hand() -> None:
    """Class 0 in the order of losses: conflict, aligned, conflict; class 1: aligned, conflict."""
    loss, label, bias = [3.0, 2.0, 1.0, 5.0, 4.0], [0, 0, 0, 1, 1], [1, 0, 1, 1, 0]
    losses = Losses(np.array(loss, np.float32), np.array(label), np.array(bias), np.array([0, 1]))
    curve = mining_curve(losses, "class")
    assert curve is not None
    assert curve.k.tolist() == [1, 2, 3]
    assert curve.precision.tolist() == [1 / 2, 2 / 4, 3 / 5]
    assert curve.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve.chance == 3 / 5
    whole = mining_curve(losses, "set")
    assert whole is not None
    assert whole.precision.tolist() == pytest.approx([0, 1 / 2, 2 / 3, 2 / 4, 3 / 5])


@pytest.mark.parametrize("scope", ["class", "set"])
def test_it_is_what_the_miner_takes(scope: str) -> None:
    """At every K: the images of LossMiner, with equal losses and unknown attributes."""
    random = np.random.default_rng(0)
    label, bias = random.integers(0, 3, 60), random.integers(-1, 3, 60)
    losses = Losses(random.integers(0, 9, 60).astype(np.float32), label, bias, np.arange(3))
    curve = mining_curve(losses, scope)
    assert curve is not None
    miner = LossMiner("class" if scope == "class" else "set")
    for place, k in enumerate(curve.k.tolist()):
        chosen = miner.select(torch.from_numpy(losses.loss), torch.from_numpy(label), k)
        hits = losses.conflict[chosen].sum()
        assert curve.precision[place] == pytest.approx(hits / losses.known[chosen].sum())
        assert curve.recall[place] == pytest.approx(hits / losses.conflict.sum())
    assert curve.recall[-1] == 1


def test_no_known_conflict_no_curve() -> None:
    for bias in (-1, 0):
        losses = Losses(np.ones(3, np.float32), np.zeros(3, np.int64), np.full(3, bias), np.array([0]))
        assert mining_curve(losses, "class") is None
