"""The lines on the console, against what the run has logged."""

import csv
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from callbacks.live_table import LiveTable
from datamodules import Miniature
from datamodules.samples import Samples, Split
from lightning_modules import Vanilla
from tests.callbacks.toy import ToyClassifier, ToyData
from tests.fitting import make_trainer

HEADER = "validation, %     epoch  train loss  accuracy  aligned  conflict  worst group"


def lines(folder: Path, **options: Any) -> list[str]:
    """What is printed during a fit of two epochs."""
    seed_everything(1)
    trainer = make_trainer(folder, 2, **{"callbacks": [LiveTable("first")], "enable_checkpointing": False, **options})
    data = Miniature(train_size=64, val_size=64, test_size=16, batch_size=16, conflict_ratio=0.5)
    out = io.StringIO()
    with redirect_stdout(out):
        trainer.fit(Vanilla(backbone="smallresnet"), data)
    return out.getvalue().splitlines()


def rows(text: list[str]) -> list[list[str]]:
    return [line.split() for line in text if line.startswith("first ")]


def test_a_line_a_validation_holds_what_is_logged(tmp_path: Path) -> None:
    text = lines(tmp_path, logger=CSVLogger(tmp_path, version="x"))
    assert text[0] == HEADER
    assert len(text) == 3
    assert max(map(len, text)) < 80
    with (tmp_path / "lightning_logs/x/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in logged if row["train/loss"]]
    accuracies = [float(row["val/accuracy"]) for row in logged if row["val/accuracy"]]
    worst = [float(row["val/worst_group"]) for row in logged if row["val/worst_group"]]
    for epoch, row in enumerate(rows(text)):
        assert row[:2] == ["first", str(epoch)]
        assert float(row[2]) == pytest.approx(losses[epoch], abs=5e-5)
        assert float(row[3]) == pytest.approx(100 * accuracies[epoch], abs=0.05)
        assert float(row[6]) == pytest.approx(100 * worst[epoch], abs=0.05)


def test_validations_inside_an_epoch_have_lines_too(tmp_path: Path) -> None:
    found = rows(lines(tmp_path, val_check_interval=0.5))
    assert [row[1] for row in found] == ["0", "0", "1", "1"]
    assert all(float(row[2]) > 0 for row in found)


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_a_progress_bar_does_not_cut_lines(kind: Any, tmp_path: Path) -> None:
    text = lines(tmp_path, callbacks=[LiveTable("first"), kind()], enable_progress_bar=True)
    plain = lines(tmp_path)
    shown = [line.removeprefix("\x1b[A") for line in text]  # the cursor goes back to the bar, which is drawn anew below
    assert [line for line in shown if "first" in line or "validation" in line] == plain


class Unlabelled(Miniature):
    """Nobody knows the backgrounds."""

    def load(self, split: Split) -> Samples:
        samples = super().load(split)
        return Samples(samples.images, samples.labels, np.full_like(samples.biases, -1))


def test_without_bias_labels_there_are_dashes(tmp_path: Path) -> None:
    data = Unlabelled(train_size=32, val_size=32, test_size=16, batch_size=16)
    trainer = make_trainer(tmp_path, callbacks=[LiveTable("a_stage_with_a_long_name-12")], enable_checkpointing=False)
    out = io.StringIO()
    with redirect_stdout(out):
        trainer.fit(Vanilla(backbone="smallresnet"), data)
    header, row = out.getvalue().splitlines()
    assert row.split()[-3:] == ["-", "-", "-"]
    assert len(header) == len(row)


def test_what_classifies_nothing_has_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Validated(ToyClassifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.training_step(batch, batch_idx))

    trainer = make_trainer(tmp_path, callbacks=[LiveTable("first")], enable_checkpointing=False)
    data = ToyData()
    trainer.fit(Validated(), data.train_dataloader(), data.train_dataloader())
    assert trainer.callback_metrics["val/loss"] > 0
    assert capsys.readouterr().out == ""
