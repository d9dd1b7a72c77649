"""Classes and groups drawn equally often."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.samples import Entries
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.datamodules.toy import NAMES, Pictures, Unlabelled, make_both
from tests.generators import write_synthetic


def test_groups_are_numbered_with_one_more_for_unknown_biases() -> None:
    entries = Entries(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 2, 1, -1, 2]), 3)
    assert entries.groups(3).tolist() == [0, 2, 5, 11, 10]


def shares_drawn(module: Pictures, keys: tuple[str, ...]) -> dict[tuple[int, ...], float]:
    """Share of each combination of the keys' values among the training samples of some epochs."""
    loader: Any = module.train_dataloader()
    drawn: Counter[tuple[int, ...]] = Counter()
    for epoch in range(100):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            drawn.update(zip(*(batch[key].tolist() for key in keys), strict=True))
    return {group: count / drawn.total() for group, count in sorted(drawn.items())}


def test_balanced_classes_come_equally_often(tmp_path: Path) -> None:
    module = make_both(tmp_path, balance="class", augment="none")
    module.repeat_entries(torch.tensor([0]), 50)
    shares = shares_drawn(module, ("label",))
    assert shares == pytest.approx(dict.fromkeys([(0,), (1,), (2,)], 1 / 3), abs=0.03)
    # Within its class every entry is as likely: the one that was repeated fills most of class 0.
    assert np.mean(np.array(everything(module.train_dataloader(), "index").tolist()) == 0) == pytest.approx(
        50 / 68 / 3, abs=0.1
    )
    assert len(everything(module.train_dataloader(), "index")) == 34 + 49 + 4


def test_balanced_groups_come_equally_often(tmp_path: Path) -> None:
    module = make_both(tmp_path, balance="group", augment="none")
    shares = shares_drawn(module, ("label", "bias"))
    # An aligned and a conflicting group and the synthetic images of each class.
    groups = [(label, bias) for label in range(3) for bias in (-1, label, (label + 1) % 3)]
    assert shares == pytest.approx(dict.fromkeys(groups, 1 / 9), abs=0.03)
    for source, count in (("real", 34), ("synthetic", 4)):
        module.source = source  # type: ignore[assignment]
        assert len(everything(module.train_dataloader(), "index")) == count


def test_synthetic_images_of_a_group_are_a_group_apart(tmp_path: Path) -> None:
    module = Pictures(balance="group", augment="none")
    pairs = [(label, bias) for label in range(3) for bias in range(3)]
    labels, biases = zip(*pairs, strict=True)
    module.synthetic_dir = write_synthetic(tmp_path / "synthetic", labels, NAMES, 20, biases=biases)
    module.source = "both"
    shares = shares_drawn(module, ("label", "bias", "synthetic"))
    real = [(label, bias, 0) for label in range(3) for bias in (label, (label + 1) % 3)]
    groups = [*real, *((*pair, 1) for pair in pairs)]
    assert shares == pytest.approx(dict.fromkeys(groups, 1 / 15), abs=0.03)


def test_groups_without_bias_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.balance=group needs bias labels and Unlabelled has none; set"):
        Unlabelled(balance="group").train_dataloader()
    assert len(everything(Unlabelled(balance="class").train_dataloader(), "index")) == 34
