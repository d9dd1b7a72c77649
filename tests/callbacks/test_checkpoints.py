import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import SafeCheckpointIO
from lightning_modules import ConfigError

# the least that a checkpoint of a fit holds
CONTENT: dict[str, Any] = {"epoch": 1, "state_dict": {}}


def test_checkpoints_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = SafeCheckpointIO(), tmp_path / "new" / "last.ckpt"
    io.save_checkpoint(CONTENT, str(path))
    assert io.load_checkpoint(path, weights_only=True) == CONTENT

    def no_room(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigError, match=f"no space left for {path.parent}"):
        io.save_checkpoint({**CONTENT, "epoch": 2}, path)
    assert io.load_checkpoint(path, weights_only=True) == CONTENT


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a file"])
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(ConfigError, match=r"no checkpoint .*last\.ckpt: put it back"):
        SafeCheckpointIO().load_checkpoint(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged or no checkpoint"):
        SafeCheckpointIO().load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(ConfigError, match=r"last\.ckpt is no checkpoint of a fit"):
        SafeCheckpointIO().load_checkpoint(path)


def test_checkpoints_elsewhere_are_left_to_lightning(tmp_path: Path) -> None:
    io = SafeCheckpointIO()
    io.save_checkpoint(CONTENT, f"file://{tmp_path}/last.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt", weights_only=True) == CONTENT
