import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.imagenet9 import SYNSETS, ImageNet9
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything, names
from tests.layouts.imagenet9 import ADVERSARIAL, OTHER, write_imagenet9


def small(root: Path, **options: Any) -> ImageNet9:
    return ImageNet9(root, image_size=12, num_workers=0, batch_size=16, augment="none", **options)


def counts(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels, minlength=9).tolist()


def test_synsets() -> None:
    wnids = [wnid for group in SYNSETS.values() for wnid in group]
    assert len(set(wnids)) == len(wnids) == 42
    assert list(SYNSETS) == ["dog", "cat", "frog", "turtle", "bird", "monkey", "fish", "crab", "insect"]
    assert [len(group) for group in SYNSETS.values()] == [5, 5, 3, 5, 5, 5, 5, 4, 5]
    assert all(list(group) == sorted(group) for group in SYNSETS.values())


def test_nine_classes_tested_on_imagenet_a(tmp_path: Path) -> None:
    data = small(write_imagenet9(tmp_path))
    data.setup()
    assert counts(data.train_labels()) == [10, 10, 6, 10, 10, 10, 10, 8, 10]
    assert counts(everything(data.val_dataloader(), "label")) == [5, 5, 3, 5, 5, 5, 5, 4, 5]
    assert counts(everything(data.test_dataloader(), "label")) == [1, 1, 1, 1, 1, 1, 1, 0, 1]
    assert not data.has_bias
    assert set(data.train_biases().tolist()) == {-1}
    samples = data.load("test")
    assert samples is not None
    for name, label in zip(names(samples), samples.labels, strict=True):
        wnid = name.split("/")[1]
        assert wnid != OTHER
        assert wnid in SYNSETS[data.class_names[label]]
    assert len(samples) == len(ADVERSARIAL)


def test_ordinary_validation_images_as_test(tmp_path: Path) -> None:
    data = small(write_imagenet9(tmp_path), test="val", val_fraction=0.5)
    data.setup()
    assert counts(everything(data.test_dataloader(), "label")) == [5, 5, 3, 5, 5, 5, 5, 4, 5]
    # nothing of the test set is selected on: validation is carved out of train
    assert (
        counts(data.train_labels()) == counts(everything(data.val_dataloader(), "label")) == [5, 5, 3, 5, 5, 5, 5, 4, 5]
    )


def test_without_validation_images(tmp_path: Path) -> None:
    shutil.rmtree(write_imagenet9(tmp_path) / "val")
    data = small(tmp_path, val_fraction=0.5)
    data.setup()
    assert counts(everything(data.val_dataloader(), "label")) == [5, 5, 3, 5, 5, 5, 5, 4, 5]
    with pytest.raises(ConfigError, match="has no image below val/n02085620/; get ImageNet"):
        small(tmp_path, test="val").setup()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: .*none does not exist; get ImageNet .* https://image-net\.org"):
        small(tmp_path / "none").setup()
    write_imagenet9(tmp_path)
    shutil.rmtree(tmp_path / "imagenet-a")
    where = r"ImageNet-A from https://github\.com/hendrycks/natural-adv-examples"
    with pytest.raises(
        ConfigError, match=rf"has no image below imagenet-a/n02085620/ or the folders beside it; .*{where}"
    ):
        small(tmp_path).setup("test")
    shutil.rmtree(tmp_path / "train" / "n01978287")
    with pytest.raises(ConfigError, match="has no image below train/n01978287/; get ImageNet"):
        small(tmp_path).setup("fit")
