import logging
import shutil
import zipfile
from pathlib import Path

import pytest

from datamodules.spuco_animals import SpuCoAnimals
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import SPLITS, everything, groups
from tests.layouts.spuco_animals import FOLDERS, write_spuco_animals

GROUPS = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 2), (2, 3), (3, 3), (3, 2)]


def small(root: Path, bias_ratio: float | None = None) -> SpuCoAnimals:
    return SpuCoAnimals(root, bias_ratio=bias_ratio, image_size=12, num_workers=0, batch_size=8, augment="none")


def test_groups(tmp_path: Path) -> None:
    data = small(write_spuco_animals(tmp_path))
    data.setup()
    assert data.class_names == ("landbird", "waterbird", "small dog", "big dog")
    assert data.bias_names == ("land", "water", "indoors", "outdoors")
    for split in SPLITS:
        assert groups(data, split) == {(label, bias): 8 if label == bias else 2 for label, bias in GROUPS}
    assert everything(data.test_dataloader(), "image").shape == (40, 3, 12, 12)


def test_ratio_cuts_training_and_validation(tmp_path: Path) -> None:
    data = small(write_spuco_animals(tmp_path, aligned=20, per_group=2, size=8), bias_ratio=0.98)
    data.setup()
    assert groups(data, "train") == {(label, bias): 40 if label == bias else 1 for label, bias in GROUPS}
    # at least 10 of a class stay in validation, so both of these
    assert groups(data, "val") == groups(data, "test")
    assert groups(data, "test") == {(label, bias): 40 if label == bias else 2 for label, bias in GROUPS}


def test_ratio_below_that_of_the_set() -> None:
    with pytest.raises(ConfigError, match=r"data\.bias_ratio=0\.9 must be at least 0\.95 and below 1"):
        small(Path("nowhere"), bias_ratio=0.9)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: .*none does not exist; get spuco_birds and spuco_dogs"):
        small(tmp_path / "none").setup()
    shutil.rmtree(write_spuco_animals(tmp_path) / "spuco_dogs" / "test" / "big_dogs" / "indoor")
    message = (
        r"has no image below spuco_dogs/test/big_dogs/indoor/; .*https://github\.com/BigML-CS-UCLA/SpuCo and unpack"
    )
    with pytest.raises(ConfigError, match=message):
        small(tmp_path).setup("test")


@pytest.mark.parametrize(("wrong", "warnings"), [(0, 0), (1, 1)])
def test_official_size_with_other_groups(
    tmp_path: Path, wrong: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with zipfile.ZipFile(tmp_path / "spuco.zip", "w") as archive:
        for part, folders in FOLDERS.items():
            for animal, place in folders:
                count = 500 + (wrong if place == "land" else -wrong if place == "water" else 0)
                for number in range(count):
                    archive.writestr(f"{part}/test/{animal}/{place}/{number}.jpg", b"")
    with caplog.at_level(logging.WARNING, "diffubias"):
        small(tmp_path / "spuco.zip").load("test")
    assert len(caplog.records) == warnings
    if warnings:
        assert "the test split of SpuCo Animals has the groups (label, bias) {(0, 0): 501" in caplog.text
