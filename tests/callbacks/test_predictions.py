import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import PredictionWriter


def batch(first: int, count: int) -> dict[str, torch.Tensor]:
    index = torch.arange(first, first + count)
    probability = torch.full((count, 4), 0.1)
    probability[torch.arange(count), (index + 1) % 4] = 0.7
    return {"index": index, "label": index % 4, "probability": probability.to(torch.float64), "logits": probability}


def write(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    trainer: Any = SimpleNamespace(
        global_rank=rank, world_size=world_size, default_root_dir=folder, is_global_zero=rank == 0
    )
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
