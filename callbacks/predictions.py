"""Predictions on disk."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.dataset import FileStore

COLUMNS = ("index", "label", "prediction", "probability", "class_name", "predicted_name")


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions.csv``, one row an image.

    The columns are index, label, prediction and its probability, the names of the two classes, and the path of the
    image below ``data.root`` where the data are files. Each rank of several writes its own file,
    ``predictions-RANK.csv``.
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
        classes: Sequence[str] = trainer.datamodule.class_names  # type: ignore[attr-defined]
        paths = _paths(trainer)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, *([] if paths is None else ["path"])])
            for batch in predictions:
                probability, prediction = batch["probability"].float().max(dim=1)
                columns = (batch["index"], batch["label"], prediction, probability)
                for index, label, predicted, share in zip(*(column.tolist() for column in columns), strict=True):
                    place = [] if paths is None else [paths[index]]
                    writer.writerow([index, label, predicted, share, classes[label], classes[predicted], *place])
        if trainer.is_global_zero:
            ranks = {f"predictions-{rank}.csv" for rank in range(trainer.world_size)}
            current = {name} if trainer.world_size == 1 else ranks
            for old in path.parent.glob("predictions*.csv"):  # of an earlier call with another number of processes
                if old.name not in current and re.fullmatch(r"predictions(-\d+)?\.csv", old.name):
                    old.unlink()
            print(f"predictions: {path}")


def _paths(trainer: Trainer) -> Sequence[str] | None:
    """Paths of the predicted images by their index, as the data name them; None where the images lie in arrays."""
    images = trainer.predict_dataloaders.dataset.parts[0].images  # type: ignore[union-attr]
    return images.files.names if isinstance(images, FileStore) else None
