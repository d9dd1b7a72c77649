"""Predictions on disk."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions.csv``: index, label, prediction and its probability, one row an image.

    Each rank of several writes its own file, ``predictions-RANK.csv``.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the rows of this rank's batches."""
        name = f"predictions-{trainer.global_rank}.csv" if trainer.world_size > 1 else "predictions.csv"
        path = Path(trainer.default_root_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "label", "prediction", "probability"])
            for batch in predictions:
                probability, prediction = batch["probability"].float().max(dim=1)
                columns = (batch["index"], batch["label"], prediction, probability)
                writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
        if trainer.is_global_zero:
            print(f"predictions: {path}")
