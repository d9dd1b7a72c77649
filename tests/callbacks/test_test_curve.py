from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from callbacks.test_curve import CURVE, CurveWriter, best_on_test, read_curve
from tests.callbacks.toy import ToyClassifier, ToyData

ACCURACIES = (0.25, 0.75, 0.5, 0.75)


class Watched(ToyClassifier):
    """Logs a chosen test accuracy at every validation."""

    def __init__(self, accuracies: tuple[float, ...] = ACCURACIES, watch: bool = True) -> None:
        super().__init__()
        self.accuracies = accuracies
        self.watch = watch

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", 1.0)
        if self.watch:
            epoch = self.trainer.current_epoch
            self.log_dict({"watched/accuracy": self.accuracies[epoch], "watched/conflict": epoch / 8})


class Data(ToyData):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def fit(module: pl.LightningModule, folder: Path, epochs: int, **options: Any) -> pl.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[CurveWriter(folder)], accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_train_batches=2,
        num_sanity_val_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, Data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_one_row_a_validation(tmp_path: Path) -> None:
    fit(Watched(), tmp_path / "stage", 4)
    rows = read_curve(tmp_path / "stage")
    assert rows == [
        {"epoch": 0, "step": 2, "accuracy": 0.25, "conflict": 0.0},
        {"epoch": 1, "step": 4, "accuracy": 0.75, "conflict": 0.125},
        {"epoch": 2, "step": 6, "accuracy": 0.5, "conflict": 0.25},
        {"epoch": 3, "step": 8, "accuracy": 0.75, "conflict": 0.375},
    ]
    assert (tmp_path / "stage" / CURVE).read_text().startswith("epoch,step,accuracy,conflict\n0,2,0.25,0.0\n")
    # the first of two that are equally good
    assert best_on_test(tmp_path / "stage") == {"accuracy": 0.75, "conflict": 0.125}


def test_several_validations_an_epoch(tmp_path: Path) -> None:
    fit(Watched(), tmp_path, 2, val_check_interval=1)
    assert [(row["epoch"], row["step"]) for row in read_curve(tmp_path)] == [(0, 1), (0, 2), (1, 3), (1, 4)]


def test_a_resumed_fit_replaces_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    fit(Watched(), tmp_path, 2).save_checkpoint(tmp_path / "two.ckpt")
    fit(Watched(), tmp_path, 4, ckpt_path=tmp_path / "two.ckpt")
    whole = read_curve(tmp_path)
    fit(Watched((0.0, 0.0, 0.125, 0.25)), tmp_path, 3, ckpt_path=tmp_path / "two.ckpt")
    rows = read_curve(tmp_path)
    assert [row["step"] for row in whole] == [2, 4, 6, 8]
    assert rows[:2] == whole[:2]
    assert [(row["step"], row["accuracy"]) for row in rows[2:]] == [(6, 0.125)]


def test_nothing_is_written_where_nothing_is_watched(tmp_path: Path) -> None:
    fit(Watched(watch=False), tmp_path, 1)
    assert not list(tmp_path.iterdir())
    assert read_curve(tmp_path) == []
    assert best_on_test(tmp_path) is None


def test_values_survive_the_file_to_the_last_bit(tmp_path: Path) -> None:
    value = float(torch.tensor(1) / 3)
    fit(Watched((value,)), tmp_path, 1)
    assert read_curve(tmp_path)[0]["accuracy"] == pytest.approx(value, abs=0)
