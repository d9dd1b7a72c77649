"""Bias labels from the folders and names of pictures."""

from collections import Counter
from pathlib import Path

import pytest

from lightning_modules.errors import ConfigError
from tests.datamodules.folders import loaded, small, splits
from tests.layouts.folder import write_folder, write_images


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


def test_a_bias_that_looks_like_a_missing_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded(write_folder(tmp_path, biases=("sofa", "NA")), bias="folder")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["data.root: the bias NA reads like a missing one; leave it empty where it is not known"]


def test_aligned_without_bias_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.aligned: there are no bias labels in data\.root"):
        loaded(write_folder(tmp_path), aligned={"cat": "grass"})
