from pathlib import Path

import numpy as np
import pytest

from callbacks.synthesis.losses import Losses, read_losses, write_losses
from lightning_modules.errors import ConfigError


def make(loss: list[float], label: list[int], bias: list[int], aligned: tuple[int, ...] = (0, 1)) -> Losses:
    return Losses(np.array(loss, dtype=np.float32), np.array(label), np.array(bias), np.array(aligned))


def test_they_come_back_as_they_were(tmp_path: Path) -> None:
    losses = make([0.5, 1.5, 0.25], [0, 1, 1], [0, -1, 0])
    write_losses(tmp_path, losses)
    found = read_losses(tmp_path)
    assert found is not None
    for name, values in vars(losses).items():
        assert getattr(found, name).dtype == values.dtype
        assert getattr(found, name).tolist() == values.tolist()
    assert read_losses(tmp_path / "elsewhere") is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "losses.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"losses\.safetensors is damaged.*delete it"):
        read_losses(tmp_path)


def test_conflict_is_another_known_attribute_than_that_of_the_class() -> None:
    losses = make([0.0] * 4, [0, 0, 1, 1], [1, 2, 2, -1], aligned=(1, 2))
    assert losses.conflict.tolist() == [False, True, False, False]
    assert losses.known.tolist() == [True, True, True, False]


def test_the_lowest_of_each_class_by_loss_then_index() -> None:
    losses = make([3, 1, 1, 2, 0, 5], [0, 0, 0, 1, 1, 1], [0] * 6)
    assert losses.lowest(2) == [1, 2, 4, 3]
    assert losses.lowest(2, without=[1, 4]) == [2, 0, 3, 5]
    assert losses.lowest(9, without=[0, 1, 2]) == [4, 3, 5]
