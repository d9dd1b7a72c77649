"""Reading and writing checkpoints."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from callbacks.synthesis.files import make_folder, write_bytes
from lightning_modules.errors import ConfigError


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is run.

    Args:
        path: The file.
        map_location: Where the tensors go.
        mmap: Whether to leave them on the disk until they are used.

    Returns:
        Its content.

    Raises:
        ConfigError: There is no such file, or it is damaged or no checkpoint.
    """
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint {path}: put it back, or delete its stage's folder to fit it again")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # what a file that is something else makes the reader raise is not documented
        raise ConfigError(f"{path} is damaged or no checkpoint: delete its stage's folder to fit it again") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ConfigError(f"{path} is no checkpoint of a fit: give one that `fit` has written")
    return content


class SafeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there, so that a kill or a full disk leaves the one before.

    Lightning's own goes through the system's folder for temporary files. Where that is another disk, moving is copying,
    and half a file may be left.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            ConfigError: The disk is full.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        make_folder(Path(path).parent)
        write_bytes(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            ConfigError: See :func:`read_checkpoint`.
        """
        if "://" in str(path):
            return dict(super().load_checkpoint(path, map_location, weights_only))
        return read_checkpoint(Path(path), map_location or "cpu")
