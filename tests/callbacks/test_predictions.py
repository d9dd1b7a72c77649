import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import PredictionWriter
from datamodules import DebiasDataModule, Folder
from lightning_modules import Classifier
from tests.datamodules.toy import Pictures
from tests.fitting import make_trainer
from tests.layouts.folder import write_folder
from tests.lightning_modules.toy import MLP


def batch(first: int, count: int) -> dict[str, torch.Tensor]:
    index = torch.arange(first, first + count)
    probability = torch.full((count, 4), 0.1)
    probability[torch.arange(count), (index + 1) % 4] = 0.7
    return {"index": index, "label": index % 4, "probability": probability.to(torch.float64), "logits": probability}


def write(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    parts = [SimpleNamespace(images=None)]
    trainer: Any = SimpleNamespace(
        global_rank=rank, world_size=world_size, default_root_dir=folder, is_global_zero=rank == 0,
        datamodule=SimpleNamespace(class_names=("a", "b", "c", "d")),
        predict_dataloaders=SimpleNamespace(dataset=SimpleNamespace(parts=parts)),
    )  # fmt: skip
    module: Any = None
    PredictionWriter().write_on_epoch_end(trainer, module, [batch(0, 3), batch(3, 1)], [])


def test_one_row_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "predictions.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["label"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["prediction"] for row in rows] == ["1", "2", "3", "0"]
    assert all(float(row["probability"]) == pytest.approx(0.7) for row in rows)
    assert capsys.readouterr().out == f"predictions: {path}\n"


def test_every_rank_has_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(2):
        write(tmp_path, rank, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions-0.csv", "predictions-1.csv"]
    assert capsys.readouterr().out.count("predictions:") == 1
    (tmp_path / "predictions-of-mine.csv").touch()
    write(tmp_path)  # what another number of processes left would be taken for more of these
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions-of-mine.csv", "predictions.csv"]


def predicted(folder: Path, data: DebiasDataModule) -> list[dict[str, str]]:
    """The rows that a classifier which was never trained leaves."""
    trainer = make_trainer(folder, callbacks=[PredictionWriter()])
    trainer.predict(Classifier(**{**MLP, "num_classes": None}), datamodule=data, return_predictions=False)
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_classes_and_files_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", classes=("cat", "dog"), per_group=2)
    rows = predicted(tmp_path, Folder(root, image_size=16, batch_size=3))
    files = ["test/cat/0000.jpg", "test/cat/0001.jpg", "test/dog/0000.jpg", "test/dog/0001.jpg"]
    assert [row["path"] for row in rows] == files
    assert [row["class_name"] for row in rows] == ["cat", "cat", "dog", "dog"]
    assert [row["predicted_name"] for row in rows] == [("cat", "dog")[int(row["prediction"])] for row in rows]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_images_in_memory_have_no_path(tmp_path: Path) -> None:
    rows = predicted(tmp_path, Pictures(test=(1, 1, 1)))
    assert [row["class_name"] for row in rows] == ["a", "b", "c"]
    assert "path" not in rows[0]
