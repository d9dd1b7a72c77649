"""Trainers for tests: quiet, on the CPU, in one process or as a launcher would start them."""

import os
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch.distributed as dist


def make_trainer(folder: Path, epochs: int = 1, **options: Any) -> L.Trainer:
    plain: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "max_epochs": epochs,
    }
    return L.Trainer(**{**plain, **options})


def as_launched(rank: int, world_size: int, *args: Any) -> Any:
    """Run under Lightning as torchrun would start it; the group that exists already is used."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(world_size)}
    fn, *rest = args
    result = fn(rank, world_size, *rest)
    assert dist.is_initialized()
    return result
