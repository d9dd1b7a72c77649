import logging
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import Samples
from datamodules.utkface import UTKFace
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import SPLITS, everything, groups, names
from tests.layouts.utkface import write_utkface

# From Fake to Real's splits by ratio, groups young men, old men, young women, old women (their numbers of ages turned)
TRAIN = {
    0.9: (934, 103, 636, 5731),
    0.95: (934, 50, 302, 5731),
    0.97: (934, 29, 178, 5731),
    0.99: (934, 10, 58, 5731),
    0.999: (934, 1, 6, 5731),
}
VAL = {
    0.9: (119, 13, 80, 724),
    0.95: (119, 10, 39, 724),
    0.97: (119, 10, 23, 724),
    0.99: (119, 10, 10, 724),
    0.999: (119, 10, 10, 724),
}


def small(root: Path, **options: Any) -> UTKFace:
    return UTKFace(root, **{"image_size": 12, "num_workers": 0, "batch_size": 8, "augment": "none", **options})


def total(data: UTKFace) -> Counter[tuple[int, int]]:
    return groups(data, "train") + groups(data, "val") + groups(data, "test")


@pytest.mark.parametrize("suffix", [".jpg", ".jpg.chip.jpg", ".webp"])
def test_groups(tmp_path: Path, suffix: str) -> None:
    data = small(write_utkface(tmp_path, suffix=suffix), bias_ratio=None)
    data.setup()
    assert data.class_names == ("male", "female")
    assert data.bias_names == ("young", "old")
    # ten faces a gender at the ages 1 (young), 20 and 50 (old); 12 and 70 are dropped
    assert total(data) == {(0, 0): 10, (0, 1): 20, (1, 0): 10, (1, 1): 20}
    assert groups(data, "train") == {(0, 0): 8, (0, 1): 16, (1, 0): 8, (1, 1): 16}
    for split in SPLITS:
        samples = data.load(split)
        for name, label, bias in zip(names(samples), samples.labels, samples.biases, strict=True):
            age, gender, *_ = name.removeprefix("UTKFace/").split("_")
            assert gender == str(label)
            assert (int(age) >= 20) == bool(bias)
    assert everything(data.train_dataloader(), "image").shape == (48, 3, 12, 12)


def test_split_follows_the_seed_and_shares_no_face(tmp_path: Path) -> None:
    write_utkface(tmp_path)
    data = small(tmp_path, bias_ratio=None, seed=1)
    parts = [names(data.load(split)) for split in SPLITS]
    assert len({name for part in parts for name in part}) == sum(map(len, parts)) == 60
    again, other = (small(tmp_path, bias_ratio=None, seed=seed) for seed in (1, 2))
    assert [names(again.load(split)) for split in SPLITS] == parts
    assert names(other.load("test")) != parts[2]


def test_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    write_utkface(tmp_path / "faces")
    shutil.make_archive(str(tmp_path / "faces"), "zip", tmp_path / "faces")
    one, other = small(tmp_path / "faces"), small(tmp_path / "faces.zip")
    assert torch.equal(everything(one.train_dataloader(), "image"), everything(other.train_dataloader(), "image"))


def test_names_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_utkface(tmp_path) / "UTKFace"
    first = sorted(folder.iterdir())[0]
    for name in ("39_1_20170116174525125.jpg", "53__0_20170116184028385.jpg", "21_2_0_20170116184028385.jpg"):
        shutil.copy(first, folder / name)
    (tmp_path / "crop_part1").mkdir()
    shutil.copy(first, tmp_path / "crop_part1" / first.name)
    with caplog.at_level(logging.INFO, "diffubias"):
        data = small(tmp_path, bias_ratio=None)
        assert sum(len(data.load(split)) for split in SPLITS) == 60
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "UTKFace: 4 files are left out, for their names lack a field or came before, the first is "
        "UTKFace/21_2_0_20170116184028385.jpg"
    ]


def test_pictures_under_several_names_are_in_one_split(tmp_path: Path) -> None:
    folder = write_utkface(tmp_path) / "UTKFace"
    twins: set[str] = set()
    for number, path in enumerate(sorted(folder.glob("1_0_*"))[:3]):
        copy = path.with_name(f"{25 + number}_1_0_20170116184028{number:03d}.jpg")
        shutil.copy(path, copy)
        twins |= {f"UTKFace/{path.name}", f"UTKFace/{copy.name}"}
    for seed in range(5):
        data = small(tmp_path, bias_ratio=None, seed=seed)
        assert twins <= set(names(data.load("train")))


def write_full_size(path: Path) -> Path:
    """As many names as the full release has; young men and old women as often as there, the others about so."""
    faces = {(3, 0): 1156, (40, 0): 7231, (3, 1): 1214, (40, 1): 7165, (70, 0): 6939}
    with zipfile.ZipFile(path, "w") as archive:
        for (age, gender), count in faces.items():
            for number in range(count):
                name = f"{age}_{gender}_0_{20170109000000000 + number}.jpg"
                archive.writestr(name, name)
    return path


def counts(samples: Samples) -> tuple[int, ...]:
    return tuple(np.bincount(2 * samples.labels + samples.biases, minlength=4).tolist())


def test_counts_of_the_released_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_full_size(tmp_path / "faces.zip")
    data = small(root)
    for ratio in TRAIN:
        data.bias_ratio = ratio
        assert counts(data.load("train")) == TRAIN[ratio]
        assert counts(data.load("val")) == VAL[ratio]
    assert counts(data.load("test")) == pytest.approx((103, 723, 121, 710), abs=1)
    assert not caplog.records


def test_full_size_with_other_groups_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_full_size(tmp_path / "faces.zip")
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr("3_0_0_20180109000000000.jpg", b"one more")
    data = small(root)
    for split in SPLITS:
        data.load(split)
    assert [record.getMessage() for record in caplog.records] == [
        "UTKFace has the groups (label, bias) {(0, 0): 1157, (1, 1): 7165}, but officially {(0, 0): 1156, (1, 1): 7165}"
    ]


def test_other_attributes(tmp_path: Path) -> None:
    data = small(write_utkface(tmp_path), target="race", bias="gender", bias_ratio=None)
    data.setup()
    assert data.class_names == ("White", "other than White")
    assert data.bias_names == ("male", "female")
    # all five ages; one face of five is of race 0
    assert total(data) == {(0, 0): 10, (0, 1): 10, (1, 0): 40, (1, 1): 40}


def test_ratio(tmp_path: Path) -> None:
    data = small(write_utkface(tmp_path, per_group=20), bias_ratio=0.9)
    data.setup()
    # 16 young men: 1 old one; 32 old women: 3 young ones
    assert groups(data, "train") == {(0, 0): 16, (0, 1): 1, (1, 1): 32, (1, 0): 3}
    assert groups(data, "test") == {(0, 0): 2, (0, 1): 4, (1, 1): 4, (1, 0): 2}


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"data\.bias=gender is data\.target too; give another attribute"):
        small(Path("nowhere"), bias="gender")
    with pytest.raises(ConfigError, match=r"data\.bias_ratio=1\.5 must be"):
        small(Path("nowhere"), bias_ratio=1.5)


def test_missing_files(tmp_path: Path) -> None:
    where = r"get the aligned and cropped faces of UTKFace from https://susanqq\.github\.io/UTKFace"
    with pytest.raises(ConfigError, match=rf"data\.root: .*none does not exist; {where}"):
        small(tmp_path / "none").setup()
    with pytest.raises(ConfigError, match=rf"has no image <age>_<gender>_<race>_<date> of an age .*; {where}"):
        small(tmp_path).setup()
