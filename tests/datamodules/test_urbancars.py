import logging
import shutil
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.urbancars import PAIRS, UrbanCars
from lightning_modules.errors import ConfigError
from lightning_modules.metrics import GroupTable
from tests.datamodules.reading import SPLITS, everything, groups, names
from tests.layouts.urbancars import KINDS, write_urbancars


def small(root: Path, **options: Any) -> UrbanCars:
    return UrbanCars(root, image_size=12, num_workers=0, batch_size=4, augment="none", **options)


@pytest.mark.parametrize("around", ["", "urbancars"])
def test_two_biases_at_once(tmp_path: Path, around: str) -> None:
    write_urbancars(tmp_path / around)
    data = small(tmp_path)
    data.setup()
    assert data.class_names == ("urban car", "country car")
    assert data.bias_names == PAIRS
    assert PAIRS[2] == "urban background, country object"
    # images of a group: 2 ** number of its biases that go with the car
    assert groups(data, "train") == {
        **{(0, 0): 4, (0, 1): 1, (0, 2): 2, (0, 3): 2},
        **{(1, 0): 1, (1, 1): 4, (1, 2): 2, (1, 3): 2},
    }
    for split in SPLITS[1:]:
        assert groups(data, split) == dict.fromkeys(product(range(2), range(4)), 1)
    assert everything(data.train_dataloader(), "image").shape == (18, 3, 12, 12)


def test_pictures_come_from_the_folder_of_their_group(tmp_path: Path) -> None:
    data = small(write_urbancars(tmp_path))
    samples = data.load("test")
    for name, label, pair in zip(names(samples), samples.labels, samples.biases, strict=True):
        background, thing = (text.split()[0] for text in PAIRS[pair].split(", "))
        assert f"/obj-{KINDS[label]}_bg-{background}_co_occur_obj-{thing}/" in name
        assert name.endswith(".jpg")


@pytest.mark.parametrize("bias", ["background", "object"])
def test_one_bias(tmp_path: Path, bias: str) -> None:
    data = small(write_urbancars(tmp_path), bias=bias)
    data.setup()
    assert data.bias_names == (f"urban {bias}", f"country {bias}")
    assert groups(data, "train") == {(0, 0): 6, (0, 1): 3, (1, 0): 3, (1, 1): 6}
    assert set(data.group_scores(a_table([0.5] * 4, width=2))) == {"adjusted"}
    tags = {"background": "_bg-urban_", "object": "_co_occur_obj-urban/"}
    samples = data.load("test")
    for name, attribute in zip(names(samples), samples.biases, strict=True):
        assert (tags[bias] in name) == (attribute == 0)


def a_table(accuracies: list[float], width: int = 4) -> GroupTable:
    size = len(accuracies)
    return GroupTable(
        label=torch.arange(size) // width,
        bias=torch.arange(size) % width,
        count=torch.full((size,), 100),
        correct=(100 * torch.tensor(accuracies)).round().long(),
    )


def test_metrics_of_the_paper(tmp_path: Path) -> None:
    data = small(write_urbancars(tmp_path))
    data.setup("fit")
    # cells (background, object aligned): both .96; background only .80; object only .60; none .30
    scores = data.group_scores(a_table([0.98, 0.2, 0.9, 0.5, 0.4, 0.94, 0.7, 0.7]))
    usual = 0.9025 * 0.96 + 0.0475 * 0.80 + 0.0475 * 0.60 + 0.0025 * 0.30
    expected = {
        "id_accuracy": usual,
        "bg_gap": 0.60 - usual,
        "co_occur_obj_gap": 0.80 - usual,
        "both_gap": 0.30 - usual,
    }
    assert {name: scores[name].item() for name in expected} == pytest.approx(expected, abs=1e-6)
    assert scores.keys() == {*expected, "adjusted"}


def test_no_metrics_of_the_paper_without_all_cells(tmp_path: Path) -> None:
    table = a_table([0.5] * 8)
    table.count[[1, 4]] = 0  # both in conflict
    table.correct[[1, 4]] = 0
    data = small(write_urbancars(tmp_path))
    data.setup("fit")
    assert set(data.group_scores(table)) == {"adjusted"}


def test_missing_files(tmp_path: Path) -> None:
    where = r"make UrbanCars with the scripts of https://github\.com/facebookresearch/Whac-A-Mole"
    with pytest.raises(ConfigError, match=rf"data\.root: .*none does not exist; {where}"):
        small(tmp_path / "none").setup()
    with pytest.raises(ConfigError, match=rf"has no bg-0\.95_co_occur_obj-0\.95/; {where}"):
        small(tmp_path).setup()
    shutil.rmtree(write_urbancars(tmp_path) / "bg-0.5_co_occur_obj-0.5" / "val")
    with pytest.raises(ConfigError, match=r"has no image below bg-0\.5_co_occur_obj-0\.5/val/obj-urban_bg-urban"):
        small(tmp_path).setup()


@pytest.mark.parametrize(("wrong", "warnings"), [(0, 0), (1, 1)])
def test_official_size_with_other_groups(
    tmp_path: Path, wrong: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with zipfile.ZipFile(tmp_path / "cars.zip", "w") as archive:
        archive.writestr("urbancars/bg-0.95_co_occur_obj-0.95/train/readme.txt", b"")
        for car, background, thing in product(KINDS, repeat=3):
            folder = f"urbancars/bg-0.5_co_occur_obj-0.5/test/obj-{car}_bg-{background}_co_occur_obj-{thing}"
            for number in range(125 + (wrong if thing == "urban" else -wrong)):
                archive.writestr(f"{folder}/{number:03d}.jpg", b"")
    with caplog.at_level(logging.WARNING, "diffubias"):
        small(tmp_path / "cars.zip").load("test")
    assert len(caplog.records) == warnings
