from pathlib import Path

import pytest
import torch

from datamodules.bffhq import BFFHQ
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.layouts.release import write_release


def small(root: Path, **options: object) -> BFFHQ:
    return BFFHQ(root, **{"image_size": 8, "num_workers": 0, "batch_size": 8, **options})  # type: ignore[arg-type]


def test_shares(tmp_path: Path) -> None:
    write_release(tmp_path / "bffhq", valid="valid", test_in_classes=False)
    for percent, conflicts in (("0.5pct", 1), ("1pct", 2), ("2pct", 3), ("5pct", 4)):
        data = small(tmp_path, percent=percent)
        data.setup()
        groups = torch.bincount(data.train_labels() * 2 + data.train_biases())
        assert groups.tolist() == [8, conflicts, conflicts, 8]
    assert data.class_names == ("young", "old")
    assert data.bias_names == ("woman", "man")
    assert everything(data.train_dataloader(), "image").shape == (24, 3, 8, 8)
    assert len(everything(data.val_dataloader(), "label")) == 4


def test_all_test_images_or_those_in_conflict(tmp_path: Path) -> None:
    write_release(tmp_path)
    loaders = [small(tmp_path).test_dataloader(), small(tmp_path, test="conflict").test_dataloader()]
    groups = [torch.bincount(everything(loader, "label") * 2 + everything(loader, "bias")) for loader in loaders]
    assert groups[0].tolist() == [2, 2, 2, 2]
    assert groups[1].tolist() == [0, 2, 2]


def test_validation_is_carved_where_there_is_none(tmp_path: Path) -> None:
    data = small(write_release(tmp_path, valid=""), val_fraction=0.25)
    assert len(data.train_labels()) + len(everything(data.val_dataloader(), "label")) == 18


@pytest.mark.parametrize("name", [".", "none"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: .* has none of the folders 0\.5pct, .*; get BFFHQ, linked fr"):
        small(tmp_path / name).setup()


def test_missing_share(tmp_path: Path) -> None:
    write_release(tmp_path / "bffhq", percents=("1pct",))
    with pytest.raises(ConfigError, match=r"has no folder bffhq/0\.5pct/; there is 1pct$"):
        small(tmp_path).setup()
