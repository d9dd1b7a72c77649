"""Folders in which something is wrong, or looks as if."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.errors import ConfigError
from tests.datamodules.folders import loaded, small
from tests.layouts.folder import write_folder, write_images


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.root: .*none does not exist; give a folder, or a zip, with <class>/"
    ):
        loaded(tmp_path / "none")


def test_a_root_one_folder_too_high(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", splits=("Test", "train", "val"))
    write_images(tmp_path, ["old/1.jpg"])
    with pytest.raises(ConfigError, match=r"^data\.root: \S+/photos holds train, val, Test: give that folder$"):
        loaded(tmp_path)


def test_splits_below_each_class(tmp_path: Path) -> None:
    write_folder(tmp_path, splits=("cat", "dog"), classes=("train", "test"))
    with pytest.raises(ConfigError, match=r"^data\.root: \S+/cat holds train, test: give <class>/<image> below train"):
        loaded(tmp_path)


def test_runs_beside_the_classes_are_no_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path, splits=("",), per_group=5)
    write_images(root, ["runs/folder_vanilla/stages/a/1.png", "runs/folder_vanilla/synthetic/2.png"])
    (root / "runs" / "folder_vanilla" / "config.yaml").touch()
    data = loaded(root)
    assert data.class_names == ("cat", "dog")
    assert len(data._listing.labels) == 10


def test_classes_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diffubias"):
        data = loaded(write_images(write_folder(tmp_path), ["train/cat/x.png"]))
        data.setup("test")
    told = [message for message in caplog.messages if message.startswith("classes: ")]
    assert told == ["classes: cat 4 + 3 + 3, dog 3 + 3 + 3 (training + validation + test images)"]
    assert all(record.levelname == "INFO" for record in caplog.records)


def test_many_classes_are_only_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diffubias"):
        loaded(write_folder(tmp_path, classes=[*map(str, range(21))], per_group=1))
    assert "classes: 21" in caplog.messages


def test_class_names_that_look_like_a_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded(write_folder(tmp_path, classes=("Cat", "cat", "N-A", "NaN")))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "data.root: the class NaN reads like a missing label; delete its images if it is none",
        "data.root: the classes Cat, cat differ in case only; if they are one, write them alike",
    ]


def test_pictures_in_other_formats_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path)
    for name in ("train/cat/a.heic", "test/dog/b.HEIC", "val/dog/c.nef"):
        (root / name).touch()
    assert loaded(root).class_names == ("cat", "dog")
    assert caplog.messages.count("not read: 2 .heic, 1 .nef") == 1


def test_an_empty_root(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    with pytest.raises(ConfigError, match=r"^data\.root: .* has no folder in it; give <class>/<image>"):
        loaded(tmp_path)


def test_no_training_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, splits=("val", "test"))
    with pytest.raises(ConfigError, match=r"^data\.root: .* has test/, val/ but no folder train"):
        loaded(tmp_path)


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    write_folder(tmp_path, splits=("train", "val", "valid"))
    with pytest.raises(ConfigError, match=r"has the folders val and valid, both for the val split; keep one"):
        loaded(tmp_path)


def test_an_empty_split(tmp_path: Path) -> None:
    (write_folder(tmp_path, splits=("train",)) / "test" / "cat").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"^data\.root: .*test/? holds no image; add some or delete it"):
        loaded(tmp_path)


@pytest.mark.parametrize("split", ["train", ""])
def test_a_class_without_training_image(tmp_path: Path, split: str) -> None:
    (write_folder(tmp_path, splits=(split,)) / split / "eel").mkdir()
    with pytest.raises(ConfigError, match=r"^data\.root: .*eel holds no image; add some or delete it"):
        loaded(tmp_path)


def test_a_class_that_only_the_test_set_has(tmp_path: Path) -> None:
    write_images(write_folder(tmp_path), ["test/eel/1.jpg"])
    with pytest.raises(ConfigError, match=r"test/eel/1\.jpg of the test split is of class 'eel', which no training"):
        loaded(tmp_path)


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: the only class is 'cat'; give images of at least two"):
        loaded(write_folder(tmp_path, classes=("cat",)))


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({}, "train/x.jpg", r"train/x\.jpg does not lie in a folder train/<class>; move it"),
        ({"bias": "folder"}, "val/cat/x.jpg", r"val/cat/x\.jpg does not lie in a folder val/<class>/<bias>; move it"),
        (
            {"bias": "field", "bias_field": 1},
            "train/cat/x.jpg",
            r"data\.bias_field=1: .*x\.jpg has no such part, .* 1;",
        ),
        ({"bias": "field", "bias_field": -3}, "train/cat/x_y.jpg", r"data\.bias_field=-3: .* has no such part"),
    ],
)
def test_images_in_wrong_places(tmp_path: Path, options: dict[str, Any], name: str, message: str) -> None:
    write_images(write_folder(tmp_path, biases=("a", "b"), field=options.get("bias") == "field"), [name])
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, **options)


def test_too_few_images_to_hold_some_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few images to hold out a test split"):
        loaded(write_folder(tmp_path, per_group=1, splits=("train",)))


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_wrong_fraction(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"^data\.test_fraction=.* must lie between 0 and 1"):
        small(tmp_path, test_fraction=fraction)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path) / "train" / "cat"
    folder.chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"^data\.root: cannot list .*cat \(Permission denied\)"):
            loaded(tmp_path)
    finally:
        folder.chmod(0o700)


def test_broken_zip(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match=r"^data\.root: .*own\.zip is not a readable zip"):
        loaded(tmp_path / "own.zip")


def test_files_that_vanish_are_named(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path), cache=False, broken="unchecked")
    shutil.rmtree(tmp_path / "test" / "dog")
    with pytest.raises(ConfigError, match=r"cannot read the image .*test/dog/0000\.jpg"):
        list(data.test_dataloader())
