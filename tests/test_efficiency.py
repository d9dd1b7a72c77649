"""The efficiency figure: what counts as training and what as inference of a generator."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.efficiency import draw_figure, read_costs

CHAIN = {"biased": {"module": "biased"}, "gan": {"module": "gan"}, "debiased": {"module": "model"}}


def record(phase: str, stage: str, seconds: float, **further: object) -> dict[str, object]:
    known = {"kwh": seconds / 1000, "memory_mib": 100 * seconds, "gpu_memory_mib": None, "devices": "1 x CPU"}
    return {"phase": phase, "stage": stage, "seconds": seconds, "node": 0, **known, **further}


def write_run(folder: Path, records: list[dict[str, object]]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"stages": CHAIN}))
    (folder / "emissions.jsonl").write_text("".join(f"{json.dumps(own)}\n" for own in records))
    return folder


def test_classifiers_and_mining_are_left_out(tmp_path: Path) -> None:
    classifiers = [record(phase, stage, 7.0) for phase in ("fit", "test") for stage in ("biased", "debiased")]
    own = [record("fit", "gan", 2.0), record("fit", "gan", 3.0), record("generation", "gan", 0.5)]
    costs = read_costs(write_run(tmp_path / "run", [*classifiers, record("mining", "biased", 4.0), *own]))
    assert costs["training"]["seconds"] == 5.0  # both attempts
    assert costs["training"]["kwh"] == pytest.approx(0.005)
    assert costs["training"]["grams"] == pytest.approx(475 * 0.005)
    assert costs["training"]["memory_mib"] == 300.0
    assert "gpu_memory_mib" not in costs["training"]
    assert costs["inference"]["seconds"] == 0.5


def test_what_was_not_measured_is_not_made_up(tmp_path: Path) -> None:
    unknown = [record("fit", "gan", 2.0), record("fit", "gan", 3.0, kwh=None), record("captioning", "biased", 1.0)]
    costs = read_costs(write_run(tmp_path / "run", unknown))
    assert "kwh" not in costs["training"]
    assert "grams" not in costs["training"]
    assert costs["inference"]["kwh"] == pytest.approx(0.001)


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"system": system, "part": part, "seconds": 60.0, "kwh": 0.001, "memory_mib": 1024.0}
        for system in ("DiffuBias", "A²")
        for part in ("training", "inference")
    ]
    draw_figure(rows, tmp_path / "figures/costs.png")
    with Image.open(tmp_path / "figures/costs.png") as figure:
        assert figure.width > 800
