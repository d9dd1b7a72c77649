import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from datamodules import BAR
from datamodules.bar import CLASSES, PLACES
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.generators import write_bar_official, write_bar_resplit, write_bar_zip


def small(root: Path, **options: object) -> BAR:
    return BAR(root, **{"image_size": 16, "num_workers": 0, "batch_size": 8, **options})  # type: ignore[arg-type]


def test_official_folder(tmp_path: Path) -> None:
    data = small(write_bar_official(tmp_path / "BAR"), val_fraction=0.17)
    data.setup()
    assert data.class_names == CLASSES
    assert not data.has_bias
    assert torch.bincount(data.train_labels()).tolist() == [5] * 6
    assert torch.bincount(everything(data.val_dataloader(), "label")).tolist() == [1] * 6
    assert torch.bincount(everything(data.test_dataloader(), "label")).tolist() == [3] * 6
    assert set(data.train_biases().tolist()) == {-1}
    assert set(everything(data.test_dataloader(), "bias").tolist()) == {-1}
    assert everything(data.train_dataloader(), "image").shape == (30, 3, 16, 16)
    assert data.source_image(0).size[0] >= 40


def test_folder_around_the_folder(tmp_path: Path) -> None:
    write_bar_official(tmp_path / "bar")
    assert len(small(tmp_path).train_labels()) + 6 == 36


@pytest.mark.parametrize("prefix", ["", "BAR-master/"])
def test_zip_gives_what_the_folder_gives(tmp_path: Path, prefix: str) -> None:
    archive = write_bar_zip(tmp_path / "bar.zip", prefix=prefix)
    from_zip, from_folder = small(archive), small(tmp_path / "bar")
    assert torch.equal(from_zip.train_labels(), from_folder.train_labels())
    for one, other in ((from_zip, from_folder),):
        assert torch.equal(everything(one.train_dataloader(), "image"), everything(other.train_dataloader(), "image"))
        assert torch.equal(everything(one.test_dataloader(), "image"), everything(other.test_dataloader(), "image"))


def test_zip_with_workers(tmp_path: Path) -> None:
    archive = write_bar_zip(tmp_path / "bar.zip")
    alone = small(archive)
    alone.setup()
    expected = everything(alone.train_dataloader(), "image")
    for cache in (False, True):
        data = small(archive, num_workers=2, cache=cache)
        data.setup()  # the archive is open before the workers are forked
        data.source_image(0)
        assert torch.equal(everything(data.train_dataloader(), "image"), expected)


@pytest.mark.parametrize("conflict_name", ["conflict", "conlict"])
@pytest.mark.parametrize(("percent", "conflicts"), [("1pct", 1), ("5pct", 2)])
def test_resplit(tmp_path: Path, percent: str, conflicts: int, conflict_name: str) -> None:
    data = small(write_bar_resplit(tmp_path, conflict_name=conflict_name), percent=percent)
    data.setup()
    assert data.has_bias
    assert data.bias_names == PLACES
    labels, biases = data.train_labels(), data.train_biases()
    assert torch.bincount(labels).tolist() == [6 + conflicts] * 6
    aligned = labels == biases
    assert int(aligned.sum()) == 36
    assert biases[~aligned].tolist() == ((labels[~aligned] + 1) % 6).tolist()
    val_label, val_bias = (everything(data.val_dataloader(), key) for key in ("label", "bias"))
    assert torch.bincount(val_label).tolist() == [2] * 6
    assert torch.equal(val_label, val_bias)
    test_label, test_bias = (everything(data.test_dataloader(), key) for key in ("label", "bias"))
    assert torch.equal((test_label + 2) % 6, test_bias)


def test_resplit_without_validation_carves_one(tmp_path: Path) -> None:
    shutil.rmtree(write_bar_resplit(tmp_path) / "valid")
    data = small(tmp_path, val_fraction=0.3)
    assert len(data.train_labels()) + len(everything(data.val_dataloader(), "label")) == 42


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: .*none does not exist; get BAR from https://github"):
        small(tmp_path / "none").setup()


def test_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: .* has no train/; get BAR from"):
        small(tmp_path).setup()


def test_empty_split(tmp_path: Path) -> None:
    shutil.rmtree(write_bar_official(tmp_path) / "test")
    with pytest.raises(ConfigError, match=r"data\.root: .*has no image below test/"):
        small(tmp_path).setup("test")


def test_missing_share_of_the_resplit(tmp_path: Path) -> None:
    shutil.rmtree(write_bar_resplit(tmp_path) / "train" / "conflict" / "5pct")
    with pytest.raises(ConfigError, match=r"data\.root: .*train/conflict/5pct/; set data\.percent"):
        small(tmp_path, percent="5pct").setup()


def test_unknown_class(tmp_path: Path) -> None:
    root = write_bar_official(tmp_path)
    (root / "train" / "diving_1.jpg").rename(root / "train" / "skiing_1.jpg")
    with pytest.raises(ConfigError, match=r"train/skiing_1\.jpg, whose name is not <class>_<number>"):
        small(root).setup()


@pytest.mark.parametrize("name", ["x_6_0.jpg", "x_1.jpg", "x_a_b.jpg"])
def test_wrong_name_in_the_resplit(tmp_path: Path, name: str) -> None:
    root = write_bar_resplit(tmp_path)
    (root / "test" / "0" / name).write_bytes(b"")
    with pytest.raises(ConfigError, match="whose name is not <name>_<label>_<bias>"):
        small(root).setup("test")


def test_class_without_images(tmp_path: Path) -> None:
    root = write_bar_official(tmp_path)
    for path in (root / "train").glob("pole vaulting_*"):
        path.unlink()
    with pytest.raises(ConfigError, match="class 'pole vaulting' of BAR has no training sample"):
        small(root).setup()


@pytest.mark.parametrize("cache", [False, True])
def test_truncated_image_is_named(tmp_path: Path, cache: bool) -> None:
    root = write_bar_official(tmp_path)
    path = root / "test" / "racing_8.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"cannot read the image .*test/racing_8\.jpg \(.*\); replace the file"):
        list(small(root, cache=cache).test_dataloader())


@pytest.mark.skipif("DIFFUBIAS_BAR" not in os.environ, reason="DIFFUBIAS_BAR does not name a copy of the real BAR")
def test_the_real_release() -> None:
    root = Path(os.environ["DIFFUBIAS_BAR"])
    data = BAR(root, image_size=64, num_workers=0)
    data.setup()
    val, test = (everything(loader, "label") for loader in (data.val_dataloader(), data.test_dataloader()))
    assert torch.bincount(torch.cat([data.train_labels(), val])).tolist() == [326, 520, 163, 279, 336, 317]
    assert torch.bincount(val).tolist() == [33, 52, 16, 28, 34, 32]
    assert torch.bincount(test).tolist() == [105, 159, 42, 131, 132, 85]
    assert everything(data.train_dataloader(), "image").shape == (1746, 3, 64, 64)
    if root.suffix == ".zip":
        assert len([name for name in zipfile.ZipFile(root).namelist() if name.endswith(".jpg")]) == 2595
