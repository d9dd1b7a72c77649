import errno
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from callbacks import SafeCheckpointIO, StageCallback
from lightning_modules.errors import ConfigError
from tests.callbacks.toy import ToyClassifier, ToyData


class Draws(ToyClassifier):
    """Remembers a random number of every epoch, and may stop by itself."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.drawn: dict[int, float] = {}
        self.stop_after = stop_after

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.drawn.setdefault(self.current_epoch, float(torch.rand(())))
        if self.current_epoch == self.stop_after:
            self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)


def fit(module: pl.LightningModule, callback: StageCallback, epochs: int = 3, **options: Any) -> pl.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", devices=1, logger=False, limit_train_batches=2,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, ToyData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_an_epoch_draws_the_same_after_a_resume(tmp_path: Path) -> None:
    whole, first, rest = Draws(), Draws(), Draws()
    fit(whole, StageCallback(tmp_path / "whole", 5))
    trainer = fit(first, StageCallback(tmp_path / "first", 5), epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.rand(100)
    fit(rest, StageCallback(tmp_path / "rest", 5), ckpt_path=tmp_path / "last.ckpt")
    assert first.drawn | rest.drawn == whole.drawn
    assert sorted(rest.drawn) == [1, 2]
    for ours, theirs in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    modules = Draws(), Draws()
    for seed, module in enumerate(modules):
        fit(module, StageCallback(tmp_path / str(seed), seed))
    values = [value for module in modules for value in module.drawn.values()]
    assert len(set(values)) == 6


def test_marker_stops_a_fit_that_is_over(tmp_path: Path) -> None:
    trainer = fit(Draws(stop_after=0), StageCallback(tmp_path, 1))
    assert (tmp_path / "fit_done").exists()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Draws()
    fit(again, StageCallback(tmp_path, 1), ckpt_path=tmp_path / "last.ckpt")
    # without the marker the two epochs that the first one left out would be made up for
    assert again.drawn == {}


def test_rehearsal_leaves_no_marker(tmp_path: Path) -> None:
    fit(Draws(), StageCallback(tmp_path, 1), fast_dev_run=True)
    assert not (tmp_path / "fit_done").exists()


def test_interrupted_fit_leaves_no_marker(tmp_path: Path) -> None:
    class Interrupted(Draws):
        def on_train_epoch_end(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(Interrupted(), StageCallback(tmp_path, 1))
    assert not (tmp_path / "fit_done").exists()


def test_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    source = ToyClassifier()
    with torch.no_grad():
        source.head.weight.fill_(0.25)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "init.ckpt")
    module = ToyClassifier()
    fit(module, StageCallback(tmp_path, 1, tmp_path / "init.ckpt"), epochs=0)
    assert torch.equal(module.head.weight, source.head.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": ToyClassifier(classes=3).state_dict()}, tmp_path / "init.ckpt")
    with pytest.raises(ConfigError, match=r"init_from.*init\.ckpt.*same backbone"):
        fit(ToyClassifier(), StageCallback(tmp_path, 1, tmp_path / "init.ckpt"))


def test_checkpoints_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = SafeCheckpointIO(), tmp_path / "new" / "last.ckpt"
    io.save_checkpoint({"epoch": 1}, str(path))
    assert io.load_checkpoint(path, weights_only=True) == {"epoch": 1}

    def no_room(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigError, match=f"no space left for {path.parent}"):
        io.save_checkpoint({"epoch": 2}, path)
    assert io.load_checkpoint(path, weights_only=True) == {"epoch": 1}


def test_checkpoints_elsewhere_are_left_to_lightning(tmp_path: Path) -> None:
    io = SafeCheckpointIO()
    io.save_checkpoint({"epoch": 1}, f"file://{tmp_path}/last.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
