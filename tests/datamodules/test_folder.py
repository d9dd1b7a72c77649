import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.folder import Folder
from lightning_modules.errors import ConfigError
from tests.layouts.folder import write_folder, write_images


def small(root: Path, **options: Any) -> Folder:
    return Folder(root, **{"image_size": 16, "num_workers": 0, "batch_size": 8, "augment": "none", **options})


def loaded(root: Path, **options: Any) -> Folder:
    data = small(root, **options)
    data.setup("fit")
    return data


def everything(loader: Any, key: str) -> torch.Tensor:
    return torch.cat([batch[key] for batch in loader])


def splits(data: Folder) -> dict[str, list[str]]:
    """File names of each split."""
    found = {}
    for split in ("train", "val", "test"):
        samples = data.load(split)
        assert not isinstance(samples.images, np.ndarray)
        found[split] = list(samples.images.names)
    return found


def zipped(root: Path, prefix: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


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


def test_bias_from_the_second_folder_level(tmp_path: Path) -> None:
    root = write_folder(tmp_path, per_group=2, biases=("sofa", "grass"))
    data = loaded(root, bias="folder")
    assert data.bias_names == ("grass", "sofa")
    assert data.train_labels().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.train_biases().tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    # without bias labels the second level is only a folder
    assert len(loaded(root).train_labels()) == 8


@pytest.mark.parametrize(("field", "prefix"), [(-1, ""), (1, ""), (-1, "long_name_of_")])
def test_bias_from_the_name(tmp_path: Path, field: int, prefix: str) -> None:
    root = write_folder(tmp_path, per_group=2, biases=("red", "0.5"), field=True)
    for path in root.rglob("*.jpg"):
        path.rename(path.with_name(prefix + path.name))
    data = loaded(root, bias="field", bias_field=field)
    assert data.bias_names == ("0.5", "red")
    assert Counter(zip(data.train_labels().tolist(), data.train_biases().tolist(), strict=True)) == {
        (label, bias): 2 for label in range(2) for bias in range(2)
    }


def test_carving_keeps_the_share_of_every_group(tmp_path: Path) -> None:
    counts = {"cat/grass": 40, "cat/sofa": 10, "dog/grass": 10, "dog/sofa": 40}
    names = [f"{group}/{number}.png" for group, count in counts.items() for number in range(count)]
    data = small(write_images(tmp_path, names), bias="folder", test_fraction=0.2, val_fraction=0.25)
    found = {split: Counter(name.rsplit("/", 1)[0] for name in names) for split, names in splits(data).items()}
    assert found["test"] == {group: count // 5 for group, count in counts.items()}
    assert found["val"] == {group: count // 5 for group, count in counts.items()}


def test_aligned_is_what_a_class_has_more_of_than_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # P(water | land) = 6/10 exceeds P(land | land), but not the 16/20 of all: land goes with land
    counts = {"landbird/land": 4, "landbird/water": 6, "waterbird/water": 10}
    names = [f"train/{group}/{number}.png" for group, count in counts.items() for number in range(count)]
    names += [f"{split}/{group}/{n}.png" for split in ("val", "test") for group in counts for n in range(2)]
    root = write_images(tmp_path, names)
    with caplog.at_level("INFO", "diffubias"):
        data = loaded(root, bias="folder")
    assert data.bias_names == ("land", "water")
    assert data.aligned_bias == (0, 1)
    assert "bias-aligned are: landbird - land, waterbird - water (data.aligned changes it)" in caplog.messages
    assert loaded(root, bias="folder", aligned={"landbird": "water"}).aligned_bias == (1, 1)


def test_classes_need_not_come_in_the_order_of_their_biases(tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/{bias}/{number}.png"
        for split in ("train", "val", "test")
        for label, bias in (("a", "z"), ("b", "y"), ("c", "x"))
        for number in range(2)
    ]
    data = loaded(write_images(tmp_path, names), bias="folder")
    assert data.aligned_bias == (2, 1, 0)
    assert data.train_biases().tolist() == [2, 2, 1, 1, 0, 0]


def test_a_balanced_training_set_has_no_aligned_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diffubias"):
        loaded(write_folder(tmp_path, biases=("grass", "sofa", "sea")), bias="folder")
    assert "aligned and conflict say nothing of cat, dog: no bias is over-represented there" in caplog.messages


def test_without_bias_labels_every_class_has_its_own_number(tmp_path: Path) -> None:
    assert loaded(write_folder(tmp_path)).aligned_bias == (0, 1)


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


def test_a_number_of_its_own_is_no_bias(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.rename(path.with_name(f"{number:03d}_x{number}.jpg"))
    with pytest.raises(ConfigError, match=r"18 images have 18 different bias attributes \(such as 'x0', 'x1', 'x2'\)"):
        loaded(root, bias="field")


@pytest.mark.parametrize(
    ("aligned", "message"),
    [
        ({"eel": "grass"}, "data.aligned: there is no 'eel'; .* the classes are cat, dog and the biases grass, sofa"),
        ({"cat": "sea"}, "data.aligned: there is no 'sea'"),
    ],
)
def test_wrong_aligned(tmp_path: Path, aligned: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(write_folder(tmp_path, biases=("grass", "sofa")), bias="folder", aligned=aligned)


def test_aligned_without_bias_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.aligned: there are no bias labels in data\.root"):
        loaded(write_folder(tmp_path), aligned={"cat": "grass"})


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
