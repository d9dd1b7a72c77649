"""The test set along the training: the values that papers call best test accuracy are read off here, and only here."""

import csv
import io
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.synthesis.files import make_folder, write_bytes

CURVE = "test_curve.csv"
PREFIX = "watched/"


class CurveWriter(Callback):
    """Keep ``test_curve.csv``: epoch, step and the values ``watched/...`` at the end of every validation.

    Without such values (``data.watch_test`` is off) there is no file. A fit that goes on from a checkpoint replaces the
    rows that come after it. Nothing is selected by these values but the ``best_test`` of the results.

    Args:
        directory: The folder of the stage.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / CURVE

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of this validation."""
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics  # on every rank: reading it may reduce over them
        values = {k.removeprefix(PREFIX): float(v) for k, v in metrics.items() if k.startswith(PREFIX)}
        if not values or not trainer.is_global_zero:
            return
        kept = [row for row in read_curve(self.path.parent) if row["step"] < trainer.global_step]
        rows = [*kept, {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        make_folder(self.path.parent)
        write_bytes(self.path, text.getvalue().encode())


def read_curve(directory: Path) -> list[dict[str, float]]:
    """Read the rows of a stage's curve: epoch, step and the metrics in 0..1; none without a file."""
    path = directory / CURVE
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows]


def best_on_test(directory: Path) -> dict[str, float] | None:
    """Return the metrics of the validation at which a stage's test accuracy was highest, of several the first."""
    rows = read_curve(directory)
    if not rows:
        return None
    best = max(rows, key=lambda row: row["accuracy"])
    return {key: value for key, value in best.items() if key not in ("epoch", "step")}
