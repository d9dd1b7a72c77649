import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.celeba import CelebA
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import SPLITS, everything, groups, names
from tests.layouts.celeba import write_celeba, write_celeba_hq


def small(root: Path, **options: Any) -> CelebA:
    return CelebA(root, **{"image_size": 12, "num_workers": 0, "batch_size": 8, "augment": "none", **options})


@pytest.mark.parametrize("folder", ["", "celeba"])
def test_hair_and_gender(tmp_path: Path, folder: str) -> None:
    data = small(write_celeba(tmp_path) / folder)
    data.setup()
    assert data.class_names == ("not Blond_Hair", "Blond_Hair")
    # blond women and non-blond men are aligned, though most of the non-blond are women
    assert data.bias_names == ("Male", "not Male")
    for split in SPLITS:
        assert groups(data, split) == {(0, 0): 4, (0, 1): 5, (1, 0): 1, (1, 1): 3}
    assert everything(data.train_dataloader(), "image").shape == (13, 3, 12, 12)


def test_official_split(tmp_path: Path) -> None:
    data = small(write_celeba(tmp_path))
    for split, first in zip(SPLITS, (1, 14, 27), strict=True):
        assert [int(Path(name).stem) for name in names(data.load(split))] == list(range(first, first + 13))


def test_alignment_is_that_of_the_training_split(tmp_path: Path) -> None:
    data = small(write_celeba(tmp_path, groups={(0, 0): 4, (0, 1): 1, (1, 0): 1, (1, 1): 3}))
    data.setup()
    assert data.bias_names == ("not Male", "Male")
    assert groups(data, "train") == {(0, 0): 4, (0, 1): 1, (1, 0): 1, (1, 1): 3}


def test_other_attributes(tmp_path: Path) -> None:
    data = small(write_celeba(tmp_path), target="Male", bias="Smiling")
    data.setup()
    assert data.class_names == ("not Male", "Male")
    assert data.bias_names == ("Smiling", "not Smiling")  # in this set most women smile and most men do not
    assert groups(data, "train") == {(0, 0): 5, (0, 1): 3, (1, 0): 1, (1, 1): 4}


def test_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    folder, packed = small(write_celeba(tmp_path / "a")), small(write_celeba(tmp_path / "b", zipped=True))
    for key in ("image", "label", "bias"):
        assert torch.equal(everything(folder.train_dataloader(), key), everything(packed.train_dataloader(), key))


def test_ratio_cuts_training_and_validation(tmp_path: Path) -> None:
    data = small(write_celeba(tmp_path, groups={(0, 1): 20, (0, 0): 12, (1, 0): 40, (1, 1): 15}), bias_ratio=0.9)
    data.setup()
    assert groups(data, "train") == {(0, 0): 20, (0, 1): 2, (1, 1): 40, (1, 0): 4}
    assert groups(data, "val") == {(0, 0): 20, (0, 1): 10, (1, 1): 40, (1, 0): 10}
    assert groups(data, "test") == {(0, 0): 20, (0, 1): 12, (1, 1): 40, (1, 0): 15}


def test_celeba_hq_is_split_in_the_order_of_its_table(tmp_path: Path) -> None:
    data = small(write_celeba_hq(tmp_path), target="Smiling")
    data.setup()
    assert data.bias_names == ("Male", "not Male")
    for split, numbers in zip(SPLITS, (range(32), range(32, 36), range(36, 40)), strict=True):
        assert [int(Path(name).stem) for name in names(data.load(split))] == list(numbers)
        assert groups(data, split) == {(0, 0): len(numbers) // 4, (1, 1): 3 * len(numbers) // 4}


@pytest.mark.parametrize(("wrong", "warnings"), [(0, 0), (1, 1)])
def test_complete_celeba_hq_is_compared(
    tmp_path: Path, wrong: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    # the released splits have 6,694 non-smiling men and 9,729 smiling women among the 30,000
    values = [(-1, 1)] * (6694 - wrong) + [(1, -1)] * (9729 + wrong) + [(1, 1)] * 6000 + [(-1, -1)] * 7577
    rows = [f"{number}.jpg  {smiling} {male}" for number, (smiling, male) in enumerate(values)]
    table = "\n".join(["30000", "Smiling Male", *rows[::2], *rows[1::2]])
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text(table)
    with zipfile.ZipFile(tmp_path / "CelebA-HQ-img.zip", "w") as archive:
        for number in range(30_000):
            archive.writestr(f"CelebA-HQ-img/{number}.jpg", b"")
    data = small(tmp_path, target="Smiling")
    assert [len(names(data.load(split))) for split in SPLITS] == [24_000, 3_000, 3_000]
    assert len(caplog.records) == warnings
    assert all("{(0, 0): 6694, (1, 1): 9729}" in record.getMessage() for record in caplog.records)


def test_layout_can_be_chosen(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    write_celeba_hq(tmp_path)
    assert len(small(tmp_path, target="Smiling").train_labels()) == 13
    assert len(small(tmp_path, target="Smiling", layout="celeba_hq").train_labels()) == 32


def test_table_without_validation_faces(tmp_path: Path) -> None:
    partition = write_celeba(tmp_path) / "celeba" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace(" 1\n", " 0\n"))
    data = small(tmp_path, val_fraction=0.5)
    data.setup()
    assert sum(groups(data, "train").values()) == sum(groups(data, "val").values()) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": "Blonde_Hair"},
            r"data\.target=Blonde_Hair is no attribute in .*; choose from Blond_Hair, Black_Hair$",
        ),
        ({"bias": "male"}, r"data\.bias=male is no attribute in .*; choose from Male$"),
        (
            {"bias": "zzz"},
            r"data\.bias=zzz is no attribute in .*; choose from 5_o_Clock_Shadow, Black_Hair, .*, Young$",
        ),
    ],
)
def test_unknown_attribute(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write_celeba(tmp_path)
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, **options).setup()


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"data\.bias=Male is data\.target too; give another attribute"):
        small(Path("nowhere"), target="Male")
    with pytest.raises(ConfigError, match=r"data\.bias_ratio=0\.2 must be"):
        small(Path("nowhere"), bias_ratio=0.2)


def test_missing_files(tmp_path: Path) -> None:
    where = r"get CelebA from https://mmlab\.ie\.cuhk\.edu\.hk/projects/CelebA\.html or CelebA-HQ from https://github"
    with pytest.raises(ConfigError, match=rf"data\.root: .*none does not exist; {where}"):
        small(tmp_path / "none").setup()
    nothing = r"has no list_attr_celeba\.txt and no CelebAMask-HQ-attribute-anno\.txt"
    with pytest.raises(ConfigError, match=rf"data\.root: .* {nothing}; {where}"):
        small(tmp_path).setup()
    home = write_celeba(tmp_path) / "celeba"
    with pytest.raises(ConfigError, match=r"has no CelebAMask-HQ-attribute-anno\.txt; get CelebA"):
        small(tmp_path, layout="celeba_hq").setup()
    for number in (3, 7):
        (home / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    with pytest.raises(
        ConfigError, match=r"lacks 2 of the listed images, the first is img_align_celeba/000003\.jpg; get"
    ):
        small(tmp_path).setup()
    (home / "list_eval_partition.txt").unlink()
    (home / "list_attr_celeba.txt").write_text("0\nBlond_Hair Male\n")
    with pytest.raises(ConfigError, match=r"has no list_eval_partition\.txt; get CelebA"):
        small(tmp_path).setup()


@pytest.mark.parametrize(
    ("table", "before", "after", "message"),
    [
        (
            "list_attr_celeba.txt",
            "000002.jpg  -1 ",
            "000002.jpg  ",
            r"line 4 of .*attr_celeba\.txt is not a name and 6 values",
        ),
        (
            "list_attr_celeba.txt",
            "000003.jpg  -1 -1 -1",
            "000003.jpg  -1 -1 x",
            r"line 5 of .* is not a name and 6 values",
        ),
        ("list_eval_partition.txt", "000004.jpg 0\n", "", r"partition\.txt gives 000004\.jpg no split 0, 1 or 2"),
        ("list_eval_partition.txt", "000004.jpg 0\n", "000004.jpg 5\n", r"gives 000004\.jpg no split 0, 1 or 2"),
    ],
)
def test_broken_tables(tmp_path: Path, table: str, before: str, after: str, message: str) -> None:
    path = write_celeba(tmp_path) / "celeba" / table
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(ConfigError, match=message):
        small(tmp_path).setup()
