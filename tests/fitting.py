"""Trainers for tests: quiet, on the CPU, in one process or as a launcher would start them."""

import os
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import StageCallback
from tests.datamodules.toy import Pictures


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


def fit_staged(
    module: L.LightningModule, folder: Path, name: str, epochs: int, data: Pictures | None = None,
    ckpt_path: Path | None = None, **options: Any,
) -> Path:  # fmt: skip
    """Fit as a stage of a chain does, and return the last checkpoint."""
    last = ModelCheckpoint(folder / name, "last", save_on_train_epoch_end=True)
    trainer = make_trainer(folder, epochs, callbacks=[StageCallback(folder / name, seed=3), last], **options)
    trainer.fit(module, datamodule=data or Pictures(), ckpt_path=ckpt_path, weights_only=True)
    return Path(last.best_model_path)


def as_launched(rank: int, world_size: int, *args: Any) -> Any:
    """Run under Lightning as torchrun would start it; the group that exists already is used."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(world_size)}
    fn, *rest = args
    result = fn(rank, world_size, *rest)
    assert dist.is_initialized()
    return result
