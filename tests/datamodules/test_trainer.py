"""A Trainer on a data module."""

import os
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import Batch
from tests.datamodules.toy import NAMES, Pictures
from tests.ddp import run_ddp
from tests.generators import write_selection, write_synthetic


class Recorder(L.LightningModule):
    """A tiny classifier that writes down which images came in which epoch, and how they were augmented."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.seen: list[tuple[int, list[int], float]] = []

    def training_step(self, batch: Batch, number: int) -> Tensor:
        self.seen.append((self.current_epoch, batch["index"].tolist(), float(batch["image"].double().sum())))
        return nn.functional.cross_entropy(self.net(batch["image"].mean((2, 3))), batch["label"])

    def validation_step(self, batch: Batch, number: int) -> None:
        assert not batch["synthetic"].any()

    def predict_step(self, batch: Batch, number: int) -> Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(root: Path, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "devices": 1, "default_root_dir": root, "num_sanity_val_steps": 0, **options})


@pytest.mark.parametrize("validate", [True, False])
def test_a_resumed_fit_goes_on_with_the_same_stream(tmp_path: Path, validate: bool) -> None:
    limit = {} if validate else {"limit_val_batches": 0}

    def run(epochs: int, checkpoint: str | None, folder: str) -> tuple[Recorder, str]:
        L.seed_everything(epochs, verbose=False)
        keeper = ModelCheckpoint(tmp_path / folder, save_last=True, monitor=None)
        module = Recorder()
        fit = trainer(tmp_path, max_epochs=epochs, callbacks=[keeper], **limit)
        fit.fit(module, datamodule=Pictures(seed=5), ckpt_path=checkpoint)
        return module, keeper.last_model_path

    whole, _ = run(4, None, "whole")
    start, checkpoint = run(2, None, "start")
    rest, _ = run(4, checkpoint, "rest")
    assert [epoch for epoch, _, _ in rest.seen] == sorted([2, 3] * 5)
    assert whole.seen == start.seen + rest.seen
    assert len({total for _, _, total in whole.seen}) == len(whole.seen)


def test_trainer_predicts_every_test_image(tmp_path: Path) -> None:
    outputs = trainer(tmp_path).predict(Recorder(), datamodule=Pictures())
    assert outputs is not None
    assert torch.cat([torch.as_tensor(part) for part in outputs]).tolist() == list(range(12))


def test_trainer_overfits_the_same_batches(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=2).fit(module, datamodule=Pictures())
    assert [index for _, index, _ in module.seen[:2]] == [index for _, index, _ in module.seen[2:]]


def fit_on_two_ranks(rank: int, world_size: int, root: Path) -> list[tuple[int, list[int], float]]:
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "GROUP_RANK": "0"})
    module = Recorder()
    data = Pictures(batch_size=4, mined_repeat=1)
    data.source, data.synthetic_dir = "both", root
    trainer(root, max_epochs=2, devices=world_size, strategy="ddp").fit(module, datamodule=data)
    return module.seen


def test_a_trainer_with_two_ranks_shares_the_stream_of_one(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1, 2], NAMES)
    write_selection(tmp_path, [1, 2, 3])
    data = Pictures(batch_size=8, mined_repeat=1)
    data.source, data.synthetic_dir = "both", tmp_path
    alone = Recorder()
    trainer(tmp_path, max_epochs=2).fit(alone, datamodule=data)
    ranks = run_ddp(fit_on_two_ranks, tmp_path)
    assert len(alone.seen) == len(ranks[0]) == len(ranks[1])
    for (epoch, index, total), first, second in zip(alone.seen, *ranks, strict=True):
        assert epoch == first[0] == second[0]
        pair = [value for both in zip(first[1], second[1], strict=True) for value in both]
        assert pair == index
        assert abs(first[2] + second[2] - total) < 1e-6
