import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.images import Container
from datamodules.release import Release, find_release, named_samples
from datamodules.samples import Samples
from lightning_modules.errors import ConfigError
from tests.generators import picture
from tests.layouts.release import write_release

CLASSES = ("young", "old")


def release(root: Path, percent: str = "0.5pct", name: str = "bffhq") -> Release:
    found = find_release(root, name, percent, CLASSES)
    assert found is not None
    return found


def table(samples: Samples | None) -> list[int]:
    assert samples is not None
    counts: list[int] = np.bincount(samples.labels * 2 + samples.biases, minlength=4).tolist()
    return counts


@pytest.mark.parametrize("conflict_name", ["conflict", "conlict"])
@pytest.mark.parametrize(("percent", "conflicts"), [("0.5pct", 1), ("5pct", 4)])
def test_train(tmp_path: Path, percent: str, conflicts: int, conflict_name: str) -> None:
    found = release(write_release(tmp_path, conflict_name=conflict_name), percent)
    train = found.load("train")
    assert table(train) == [8, conflicts, conflicts, 8]
    assert train is not None
    assert not isinstance(train.images, np.ndarray)
    names = [name.rsplit(".", 1)[0].split("_")[-2:] for name in train.images.names]
    assert names == [[str(label), str(bias)] for label, bias in zip(train.labels, train.biases, strict=True)]
    assert train.images.open(0).size == (12, 12)


@pytest.mark.parametrize("valid", ["{percent}/valid", "valid"])
@pytest.mark.parametrize("in_classes", [False, True])
def test_valid_and_test(tmp_path: Path, valid: str, in_classes: bool) -> None:
    found = release(write_release(tmp_path, valid=valid, valid_in_classes=in_classes, test_in_classes=in_classes))
    assert table(found.load("val")) == [1, 1, 1, 1]
    assert table(found.load("test")) == [2, 2, 2, 2]


def test_the_valid_folder_of_the_share_is_taken_first(tmp_path: Path) -> None:
    write_release(tmp_path)
    (tmp_path / "valid").mkdir()
    picture(0).save(tmp_path / "valid" / "x_1_1.png")
    assert table(release(tmp_path).load("val")) == [1, 1, 1, 1]


def test_without_validation(tmp_path: Path) -> None:
    assert release(write_release(tmp_path, valid="")).load("val") is None


def test_folder_around_the_shares_and_zip(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "some.set" / "bffhq")
    expected = release(folder).load("train")
    around = release(tmp_path / "some.set").load("train")
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for file in folder.rglob("*.png"):
            stream.write(file, file.relative_to(folder.parent).as_posix())
    zipped = release(archive).load("train")
    assert expected is not None
    for other in (around, zipped):
        assert other is not None
        assert other.labels.tolist() == expected.labels.tolist()
        assert other.biases.tolist() == expected.biases.tolist()
        assert not isinstance(other.images, np.ndarray)
        assert np.array_equal(np.asarray(other.images.open(3)), np.asarray(picture(3, (12, 12))))


def test_nothing_found(tmp_path: Path) -> None:
    assert find_release(tmp_path, "bffhq", "1pct", CLASSES) is None
    assert find_release(tmp_path / "none", "bffhq", "1pct", CLASSES) is None


def test_missing_share_names_those_that_are_there(tmp_path: Path) -> None:
    write_release(tmp_path, percents=("0.5pct", "2pct"))
    with pytest.raises(ConfigError, match=r"data\.percent=1pct: .* has no folder 1pct/; there is 0\.5pct, 2pct$"):
        release(tmp_path, "1pct").load("train")


@pytest.mark.parametrize("folder", ["1pct/align", "1pct/conflict", "test"])
def test_empty_folder(tmp_path: Path, folder: str) -> None:
    write_release(tmp_path)
    shutil.rmtree(tmp_path / folder)
    with pytest.raises(ConfigError, match=rf"data\.root: .* has no image below {folder}/; unpack the set again"):
        release(tmp_path, "1pct").load("test" if folder == "test" else "train")


@pytest.mark.parametrize("name", ["a_2_0.png", "a_0_2.png", "a_0.png", "a_x_0.png", "0_1.png", "a_-1_0.png"])
def test_wrong_names(tmp_path: Path, name: str) -> None:
    write_release(tmp_path, test_in_classes=False)
    picture(0).save(tmp_path / "test" / name)
    with pytest.raises(ConfigError, match=rf"{name}, whose name is not <name>_<label>_<bias> with numbers 0 to 1;"):
        release(tmp_path).load("test")


@pytest.mark.parametrize("folder", ["1", "7", "old"])
def test_class_folder_that_contradicts_the_name(tmp_path: Path, folder: str) -> None:
    write_release(tmp_path)
    path = tmp_path / "test" / folder
    path.mkdir(exist_ok=True)
    picture(0).save(path / "stray_0_1.png")
    with pytest.raises(ConfigError, match=rf"stray_0_1\.png, whose name says class 0 and whose folder says {folder};"):
        release(tmp_path).load("test")


def test_class_folders_by_name(tmp_path: Path) -> None:
    for label, name in enumerate(CLASSES):
        (tmp_path / "test" / name).mkdir(parents=True)
        picture(label).save(tmp_path / "test" / name / f"_{label}_0.png")
    assert table(named_samples(Container(tmp_path), ["test/"], CLASSES)) == [1, 0, 1, 0]


def test_the_same_file_twice(tmp_path: Path) -> None:
    write_release(tmp_path)
    shutil.copytree(tmp_path / "1pct" / "conflict", tmp_path / "1pct" / "conlict")
    with pytest.raises(ConfigError, match=r"holds the same image as 1pct/conflict/0/.* and as 1pct/conlict/0/.*; del"):
        release(tmp_path, "1pct").load("train")


def test_folders_that_contradict_the_biases(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_release(tmp_path)
    with caplog.at_level(logging.WARNING, "diffubias"):
        release(tmp_path, "1pct").load("train")
        assert not caplog.records
        picture(0).save(tmp_path / "1pct" / "align" / "0" / "stray_0_1.png")
        train = release(tmp_path, "1pct").load("train")
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "1 of 21 names below 1pct/ contradict align or conflict (is label == bias?); the names are believed"
    ]
    assert table(train) == [8, 3, 2, 8]
