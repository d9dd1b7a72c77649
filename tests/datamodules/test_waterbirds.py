import shutil
from pathlib import Path

import pytest
import torch

from datamodules.waterbirds import Waterbirds
from lightning_modules.errors import ConfigError
from lightning_modules.metrics import GroupTable
from tests.datamodules.reading import everything, groups
from tests.layouts.waterbirds import write_waterbirds


def small(root: Path) -> Waterbirds:
    return Waterbirds(root, image_size=12, num_workers=0, batch_size=4, augment="none")


@pytest.mark.parametrize("folder", ["", "waterbird_complete95_forest2water2"])
def test_splits_and_groups(tmp_path: Path, folder: str) -> None:
    data = small(write_waterbirds(tmp_path, per_group=2) / folder)
    data.setup()
    assert data.class_names == ("landbird", "waterbird")
    assert data.bias_names == ("land", "water")
    assert groups(data, "train") == {(0, 0): 12, (0, 1): 2, (1, 0): 2, (1, 1): 8}
    assert groups(data, "val") == groups(data, "test") == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    assert everything(data.train_dataloader(), "image").shape == (24, 3, 12, 12)


def test_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    write_waterbirds(tmp_path / "birds")
    shutil.make_archive(str(tmp_path / "birds"), "zip", tmp_path / "birds")
    one, other = small(tmp_path / "birds"), small(tmp_path / "birds.zip")
    assert torch.equal(everything(one.train_dataloader(), "image"), everything(other.train_dataloader(), "image"))


def test_average_accuracy_is_weighted_by_training_groups(tmp_path: Path) -> None:
    data = small(write_waterbirds(tmp_path))
    data.setup("fit")
    table = GroupTable(
        label=torch.tensor([0, 0, 1, 1]),
        bias=torch.tensor([0, 1, 0, 1]),
        count=torch.tensor([10, 10, 10, 10]),
        correct=torch.tensor([10, 5, 0, 8]),
    )
    # training groups 6, 1, 1, 4 of 12
    assert data.group_scores(table)["adjusted"].item() == pytest.approx((6 * 1 + 0.5 + 0 + 4 * 0.8) / 12)
    # a test alone does not read the training set for it
    assert small(tmp_path).group_scores(table) == {}


def test_missing_files(tmp_path: Path) -> None:
    where = r"get Waterbirds from https://github\.com/kohpangwei/group_DRO"
    with pytest.raises(ConfigError, match=rf"data\.root: .*none does not exist; {where}"):
        small(tmp_path / "none").setup()
    with pytest.raises(ConfigError, match=rf"data\.root: .* has no metadata\.csv; {where}"):
        small(tmp_path).setup()
    write_waterbirds(tmp_path)
    for name in ("000.Some_Bird/Some_Bird_0000.jpg", "001.Some_Bird/Some_Bird_0004.jpg"):
        (tmp_path / "waterbird_complete95_forest2water2" / name).unlink()
    with pytest.raises(ConfigError, match=r"lacks 2 of the listed images, the first is .*Some_Bird_0000\.jpg; get"):
        small(tmp_path).setup()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("place,", "ground,", r"metadata\.csv has no column place; get"),
        ("_0002.jpg,0,0,0", "_0002.jpg,0,0,7", r"metadata\.csv has place=7 in line 4; get"),
        ("_0003.jpg,0,0,0", "_0003.jpg,0,3,0", r"metadata\.csv has split=3 in line 5; get"),
    ],
)
def test_broken_table(tmp_path: Path, before: str, after: str, message: str) -> None:
    table = write_waterbirds(tmp_path) / "waterbird_complete95_forest2water2" / "metadata.csv"
    assert before in table.read_text()
    table.write_text(table.read_text().replace(before, after, 1))
    with pytest.raises(ConfigError, match=message):
        small(tmp_path).setup()
