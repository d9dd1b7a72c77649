"""What a folder of pictures is read as."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.datamodules.folders import loaded, small, splits, zipped
from tests.datamodules.reading import everything
from tests.layouts.folder import write_folder, write_images


def test_splits_and_classes_follow_the_folders(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path, per_group=3, splits=("train", "val", "test")))
    assert data.class_names == ("cat", "dog")
    assert not data.has_bias
    assert data.bias_names == ()
    assert data.train_labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert set(data.train_biases().tolist()) == {-1}
    assert everything(data.val_dataloader(), "label").tolist() == [0, 0, 0, 1, 1, 1]
    assert everything(data.test_dataloader(), "bias").tolist() == [-1] * 6
    assert everything(data.train_dataloader(), "image").shape == (6, 3, 16, 16)
    assert all(name.startswith(split) for split, names in splits(data).items() for name in names)


@pytest.mark.parametrize("names", [("Train", "valid", "TEST"), ("training", "validation", "testing")])
def test_other_names_of_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = splits(small(write_folder(tmp_path, splits=names)))
    assert [{name.split("/")[0] for name in group} for group in found.values()] == [{name} for name in names]


def test_folders_beside_the_splits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path, per_group=10, splits=("train", "eval"))
    with caplog.at_level("INFO", "diffubias"):
        found = splits(small(root))
    assert all(name.startswith("train/") for names in found.values() for name in names)
    assert "data.root: not read, for they are not called train, val or test: eval" in caplog.messages


def test_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    assert small(write_folder(tmp_path, classes=("10", "9", "1"))).class_names == ("1", "9", "10")


def test_classes_alone_are_split_by_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path, per_group=20, splits=("",))
    with caplog.at_level("INFO", "diffubias"):
        found = splits(small(root, test_fraction=0.25, val_fraction=0.2))
    assert {split: Counter(name.split("/")[0] for name in names) for split, names in found.items()} == {
        "train": {"cat": 12, "dog": 12},
        "val": {"cat": 3, "dog": 3},
        "test": {"cat": 5, "dog": 5},
    }
    assert len({name for names in found.values() for name in names}) == 40
    assert "no test split: 10 of the 40 training images are held out for it" in caplog.messages
    assert "no val split: 6 of the 30 training images are held out for it" in caplog.messages
    assert splits(small(root, test_fraction=0.25, val_fraction=0.2)) == found
    assert splits(small(root, test_fraction=0.25, val_fraction=0.2, seed=1)) != found


def test_a_missing_test_set_is_held_out_and_the_own_validation_set_kept(tmp_path: Path) -> None:
    found = splits(small(write_folder(tmp_path, per_group=10, splits=("train", "val")), test_fraction=0.3))
    assert Counter(name.split("/")[1] for name in found["test"]) == {"cat": 3, "dog": 3}
    assert len(found["val"]) == 20
    assert len(found["train"]) == 14
    assert all(name.startswith("train/") for name in found["test"])


def test_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", per_group=4, biases=("grass", "sofa"), splits=("train", "test"))
    folder = loaded(root, bias="folder")
    for prefix in ("", "own/"):
        archive = loaded(zipped(root, prefix), bias="folder")
        assert torch.equal(archive.train_labels(), folder.train_labels())
        assert torch.equal(archive.train_biases(), folder.train_biases())
        images = (everything(data.test_dataloader(), "image") for data in (archive, folder))
        assert torch.equal(*images)


def test_what_macos_adds_to_a_zip_is_left_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", splits=("",))
    write_images(root / "__MACOSX" / "cat", ["._0000.jpg"])
    write_images(root / ".thumbnails", ["cat.jpg"])
    for place in (root, zipped(root)):
        assert small(place).class_names == ("cat", "dog")
        assert len(small(place)._listing.labels) == 6


def test_links_nested_folders_and_unicode(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", classes=("größe 1", "дом"), splits=("train",), per_group=2)
    elsewhere = write_images(tmp_path / "elsewhere", ["a b.PNG", "deep/er/c.JPEG"])
    (root / "train" / "猫").symlink_to(elsewhere, target_is_directory=True)
    (root / "train" / "дом" / "linked.png").symlink_to(elsewhere / "a b.PNG")
    data = small(root)
    assert data.class_names == ("größe 1", "дом", "猫")
    names = data._listing.images.names
    assert {"train/猫/a b.PNG", "train/猫/deep/er/c.JPEG", "train/дом/linked.png"} < set(names)
    assert len(names) == 7


def test_the_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("caf\u00e9", "bar"), splits=("train",))
    write_folder(tmp_path, classes=("cafe\u0301", "bar"), splits=("val", "test"))
    data = loaded(tmp_path)
    assert data.class_names == ("bar", "caf\u00e9")
    assert everything(data.test_dataloader(), "label").tolist() == [0, 0, 0, 1, 1, 1]


def test_circles_of_links_end(tmp_path: Path) -> None:
    root = write_folder(tmp_path, per_group=2)
    train = root / "train"
    (train / "cat" / "self").symlink_to("self")
    (train / "cat" / "up").symlink_to(train / "cat", target_is_directory=True)
    (train / "cat" / "root").symlink_to(root, target_is_directory=True)
    (train / "cat" / "other").symlink_to(train / "dog", target_is_directory=True)
    (train / "dog" / "other").symlink_to(train / "cat", target_is_directory=True)
    names = splits(small(root))["train"]
    # the link to root leads to val and test, which a class cannot reach through it: root is above the class
    assert not any("root" in name for name in names)
    assert sorted(names) == names
    assert Counter(name.split("/")[1] for name in names) == {"cat": 4, "dog": 4}


# one picture each, whose grey is thirty times its number
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
ENDINGS = {"1": "png", "L": "gif", "LA": "png", "P": "gif", "RGB": "webp", "RGBA": "PNG", "CMYK": "JPG", "I;16": "tif"}


def test_every_mode_and_format(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    for number, mode in enumerate(MODES):
        image = Image.new("RGB", (10, 12), (30 * number,) * 3).convert(mode, palette=Image.Palette.ADAPTIVE)
        if mode == "I;16":
            image = Image.new("I;16", (10, 12), 30 * number << 8)
        image.save(root / "test" / "cat" / f"9_{number}.{ENDINGS[mode]}")
    data = loaded(root, mean=(0, 0, 0), std=(1, 1, 1))
    images = everything(data.test_dataloader(), "image")[3 : 3 + len(MODES)] * 255
    assert len(images) == len(MODES)
    for number, image in enumerate(images):
        assert (image - 30 * number).abs().max() < 8, MODES[number]


def test_cache_is_chosen_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path)  # 18 images
    assert loaded(root).cache
    monkeypatch.setattr("datamodules.own_data.MEMORY", 18 * 16 * 16 * 3)
    assert not loaded(root).cache
    assert loaded(root, cache=True).cache
    assert not loaded(root, cache=False, image_size=8).cache
