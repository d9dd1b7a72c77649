from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Miniature
from datamodules.miniature_world import BACKGROUNDS, SHAPES, SIZE
from lightning_modules.errors import ConfigError
from tests.generators import write_synthetic


def tiny(seed: int = 0, conflict_ratio: float = 0.05) -> Miniature:
    return Miniature(train_size=160, val_size=80, test_size=64, seed=seed, conflict_ratio=conflict_ratio)


def images(loader: object) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in loader])  # type: ignore[attr-defined]


def test_sizes_names_and_shares() -> None:
    data = tiny()
    data.setup()
    assert data.class_names == SHAPES
    assert data.bias_names == BACKGROUNDS
    assert data.num_classes == 8
    labels, biases = data.train_labels(), data.train_biases()
    assert torch.bincount(labels).tolist() == [20] * 8
    assert int((labels != biases).sum()) == 8
    val, test = (list(loader) for loader in (data.val_dataloader(), data.test_dataloader()))
    assert sum(int((batch["label"] != batch["bias"]).sum()) for batch in val) == 4
    assert sum(int((batch["label"] != batch["bias"]).sum()) for batch in test) == 56
    assert sum(len(batch["label"]) for batch in val) == 80
    assert sum(len(batch["label"]) for batch in test) == 64
    assert val[0]["image"].shape == (64, 3, SIZE, SIZE)


def test_the_oracle_has_no_bias() -> None:
    data = tiny(conflict_ratio=0.875)
    assert int((data.train_labels() != data.train_biases()).sum()) == 140


def test_a_seed_gives_the_same_world_and_another_seed_another() -> None:
    one, same, other = tiny(3), tiny(3), tiny(4)
    assert torch.equal(images(one.mining_dataloader(0, 1)), images(same.mining_dataloader(0, 1)))
    assert torch.equal(images(one.train_dataloader()), images(same.train_dataloader()))
    everything = [
        image.numpy().tobytes()
        for data in (one, other)
        for loader in (data.mining_dataloader(0, 1), data.val_dataloader(), data.test_dataloader())
        for image in images(loader)
    ]
    # no picture is in two splits, nor in two seeds
    assert len(set(everything)) == len(everything) == 2 * (160 + 80 + 64)


def test_the_bias_can_be_seen() -> None:
    data = tiny()
    pixels = np.stack([np.asarray(data.source_image(index)) for index in range(160)])
    biases = data.train_biases().numpy()
    corners = pixels[:, :3, :3].reshape(160, -1, 3).mean(1)
    means = np.stack([corners[biases == bias].mean(0) for bias in range(8)])
    nearest = np.linalg.norm(corners[:, None] - means[None], axis=2).argmin(1)
    assert (nearest == biases).mean() > 0.6


def test_synthetic_images_join(tmp_path: Path) -> None:
    data = tiny()
    data.synthetic_dir = write_synthetic(tmp_path, [0, 7], SHAPES)
    data.source = "both"
    assert len(images(data.train_dataloader())) == 162


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 7}, r"data\.train_size=7"),
        ({"test_size": 0}, r"data\.test_size=0"),
        ({"conflict_ratio": 5.0}, r"data\.conflict_ratio=5\.0"),
        ({"conflict_ratio": 0.0001}, r"data\.conflict_ratio=0\.0001 leaves no bias-conflict image among 4000; enlarge"),
        ({"seed": 4_000_000}, r"data\.seed=4000000 is too large"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Miniature(**options)  # type: ignore[arg-type]
