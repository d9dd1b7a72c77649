import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from callbacks.bars import draw_bars
from callbacks.dashboard import Dashboard, log_costs
from callbacks.emissions_log import append_records
from tests.callbacks.toy import ToyClassifier, ToyData
from tests.fitting import make_trainer


def tags(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    shown = found.Tags()
    return {*shown["images"], *shown["tensors"]}


def fit(folder: Path, rows: int) -> set[str]:
    """Fit with a dashboard on a synthesis whose pictures are missing; return what it shows."""
    pytest.importorskip("tensorboard")
    (folder / "synthetic").mkdir()
    record = '{"file_name": "images/000000.png", "label": 1, "class_name": "class1"}\n'
    (folder / "synthetic/metadata.jsonl").write_text(record)
    dashboard = Dashboard(rows)
    dashboard.settings, dashboard.synthetic = "seed: 1", folder / "synthetic"
    logger = TensorBoardLogger(folder, "", "events")
    trainer = make_trainer(folder, logger=logger, callbacks=[dashboard], enable_checkpointing=False)
    trainer.fit(ToyClassifier(), ToyData())
    assert trainer.state.finished
    logger.finalize("success")
    return tags(folder / "events")


def test_what_fails_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        shown = fit(tmp_path, rows=5)
    assert "configuration/text_summary" in shown
    (warning,) = (own.getMessage() for own in caplog.records if own.name == "diffubias")
    assert "the synthesis on the dashboard is left out, the run goes on (FileNotFoundError" in warning


def test_no_rows_no_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        assert fit(tmp_path, rows=0) == {"configuration/text_summary"}
    assert not [own for own in caplog.records if own.name == "diffubias"]


def test_costs_of_several_attempts_add_up(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path, "", "log"))
    known = {"phase": "fit", "stage": "model", "node": 0, "started": "1", "seconds": 60.0, "kwh": 1.0, "grams": 475.0}
    unknown = {**known, "phase": "test", "kwh": None, "grams": None}
    append_records(tmp_path, [known, unknown, {**known, "started": "2"}, {**known, "stage": "another"}])
    log_costs(trainer, tmp_path, "model")
    head, row = (tmp_path / "log/metrics.csv").read_text().splitlines()
    values = dict(zip(head.split(","), row.split(","), strict=True))
    assert values == {
        "emissions/fit_kwh": "2.0",
        "emissions/fit_grams": "950.0",
        "emissions/fit_minutes": "2.0",
        "emissions/test_minutes": "1.0",
        "step": "0",
    }


def test_bars_are_as_high_as_the_metrics(tmp_path: Path) -> None:
    rows = {"biased": {"accuracy": 0.25, "conflict": 0.125}, "debiased": {"accuracy": 0.75}}
    figure = draw_bars(rows)
    axes: Any = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["accuracy", "conflict"]
    heights = [[patch.get_height() for patch in container.patches] for container in axes.containers]
    assert heights == [[25.0, 12.5], [75.0]]
    # side by side round their metric
    first, second = (container.patches[0] for container in axes.containers)
    assert first.get_x() + first.get_width() == pytest.approx(second.get_x()) == pytest.approx(0)
    figure.savefig(tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as image:
        assert len(image.convert("RGB").getcolors(100_000) or []) > 2
