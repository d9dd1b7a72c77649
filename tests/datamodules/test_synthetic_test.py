"""Synthetic images that no stage trains on and the test evaluates apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules import Classifier, ConfigError
from tests.datamodules.toy import NAMES, Pictures, Unlabelled
from tests.fitting import make_trainer
from tests.generators import write_synthetic

LABELS = [0] * 20 + [1] * 20 + [2] * 10
BIASES = [0] * 10 + [1] * 10 + [1] * 20 + [-1] * 10


def make_data(folder: Path, **options: Any) -> Pictures:
    if not folder.exists():
        write_synthetic(folder, LABELS, NAMES, size=16, biases=BIASES)
    data = Pictures(augment="none", **{"synthetic_test": 0.2, **options})
    data.synthetic_dir, data.source = folder, "both"
    return data


def trained(data: Pictures) -> dict[str, Tensor]:
    batches = [{key: value[batch["synthetic"]] for key, value in batch.items()} for batch in data.train_dataloader()]
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_a_share_of_every_group_is_held_out(tmp_path: Path) -> None:
    data = make_data(tmp_path / "s")
    loaders: Any = data.test_dataloader()
    real, synthetic = loaders
    assert not any(bool(batch["synthetic"].any()) for batch in real)
    held_out = {key: torch.cat([batch[key] for batch in synthetic]) for key in ("label", "bias", "image", "synthetic")}
    assert bool(held_out["synthetic"].all())
    pairs = list(zip(held_out["label"].tolist(), held_out["bias"].tolist(), strict=True))
    assert {pair: pairs.count(pair) for pair in pairs} == {(0, 0): 2, (0, 1): 2, (1, 1): 4, (2, -1): 2}
    rest = trained(data)
    assert len(rest["label"]) == 40
    both = torch.cat([held_out["image"], rest["image"]]).flatten(1).numpy()
    assert len(np.unique(both, axis=0)) == 50
    table = data.train_table()
    assert len(table) - table.real == 40
    assert table.biases[table.real :].tolist().count(-1) == 8


def test_the_share_is_the_same_in_every_stage_and_off_by_default(tmp_path: Path) -> None:
    first, second = trained(make_data(tmp_path / "s")), trained(make_data(tmp_path / "s"))
    order, other = (images["image"].sum(dim=(1, 2, 3)).sort().values for images in (first, second))
    assert torch.equal(order, other)
    data = make_data(tmp_path / "s", synthetic_test=0.0)
    assert len(trained(data)["label"]) == 50
    assert not isinstance(data.test_dataloader(), list)


def test_before_there_are_synthetic_images_the_test_is_real(tmp_path: Path) -> None:
    data = make_data(tmp_path / "s")
    data.synthetic_dir = tmp_path / "nowhere"
    assert not data.has_synthetic
    assert not isinstance(data.test_dataloader(), list)
    with pytest.raises(ConfigError, match=r"data\.synthetic_test=1"):
        Pictures(synthetic_test=1.0)


def test_a_classifier_reports_both_test_sets(tmp_path: Path) -> None:
    data = make_data(tmp_path / "s", watch_test=True)
    module = Classifier(num_classes=3, backbone="smallresnet")
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(module, datamodule=data)
    assert not any(name.startswith("synthetic/") for name in trainer.callback_metrics)
    values, *_ = trainer.test(module, datamodule=data, verbose=False)
    assert {"test/accuracy", "synthetic/accuracy", "synthetic/worst_group", "synthetic/balanced"} <= values.keys()
    assert "synthetic/adjusted" not in values
    loaders: Any = data.test_dataloader()
    for prefix, loader in zip(("test", "synthetic"), loaders, strict=True):
        with torch.no_grad():
            hits = [(module.eval()(batch["image"]).argmax(1) == batch["label"]).float() for batch in loader]
        assert values[f"{prefix}/accuracy"] == pytest.approx(float(torch.cat(hits).mean()))


def test_the_probe_gets_equally_many_of_every_class(tmp_path: Path) -> None:
    data = make_data(tmp_path / "s", with_val=True)  # not all prompts name a bias attribute
    for count, expected in ((2, [2, 2, 2]), (100, [4, 4, 2])):
        for loader in data.probe_dataloaders(count):
            labels = torch.cat([batch["label"] for batch in loader])
            assert torch.bincount(labels).tolist() == expected


def test_the_probe_gets_equally_many_of_every_group(tmp_path: Path) -> None:
    pairs = [(label, bias) for label in range(3) for bias in range(3)] * 4
    write_synthetic(tmp_path, [label for label, _ in pairs], NAMES, size=16, biases=[bias for _, bias in pairs])
    data = Pictures(with_val=True, test=(20, 20, 20))
    data.synthetic_dir = tmp_path
    seen: list[list[tuple[int, int]]] = []
    for loader in data.probe_dataloaders(3):
        batches = list(loader)
        labels, biases = (torch.cat([batch[key] for batch in batches]).tolist() for key in ("label", "bias"))
        seen.append(sorted(zip(labels, biases, strict=True)))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6 * 3  # every fifth real image is in conflict, with the next class's attribute


def test_probe_and_training_are_apart(tmp_path: Path) -> None:
    data = make_data(tmp_path / "s", with_val=True)
    real, synthetic = data.probe_dataloaders(2)
    assert not any(bool(batch["synthetic"].any()) for batch in real)
    assert all(bool(batch["synthetic"].all()) for batch in synthetic)


def test_sets_without_bias_labels_hold_out_by_class(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "s", LABELS, NAMES, size=16)
    data = Unlabelled(synthetic_test=0.2)
    data.synthetic_dir = tmp_path / "s"
    loaders: Any = data.test_dataloader()
    labels = torch.cat([batch["label"] for batch in loaders[1]])
    assert torch.bincount(labels).tolist() == [4, 4, 2]
