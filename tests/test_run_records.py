"""What a chain writes down beside its results: the costs of its phases, its attempts, its progress."""

import json
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from callbacks.emissions_log import read_records, total
from tests.chain import ROOT, Small, call, run, run_ranks

VANILLA = ROOT / "configs/miniature_vanilla.yaml"
# in the order of their ends
CHAIN = [
    ("mining", "biased"), ("captioning", "biased"), ("generation", "biased"), ("fit", "biased"), ("test", "biased"),
    ("fit", "debiased"), ("test", "debiased"),
]  # fmt: skip


def phases(run_dir: Path) -> list[tuple[str, str]]:
    return [(record["phase"], record["stage"]) for record in read_records(run_dir)]


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "provenance.jsonl").read_text().splitlines()]


def test_a_chain_has_a_record_of_every_phase(reference: Path) -> None:
    records = read_records(reference)
    assert phases(reference) == CHAIN
    assert all(record["kwh"] > 0 and record["seconds"] > 0 for record in records)
    assert all(record["grams"] == pytest.approx(475 * record["kwh"]) for record in records)
    results = json.loads((reference / "results.json").read_text())
    assert results["emissions"] == total(records)
    # the fit of the first stage began before what happens at its end, and is charged for none of it
    starts = {own: datetime.fromisoformat(record["started"]) for own, record in zip(CHAIN, records, strict=True)}
    assert starts["fit", "biased"] < starts["mining", "biased"] < starts["captioning", "biased"]
    end = starts["fit", "biased"].timestamp() + sum(record["seconds"] for record in records[:4])
    assert end == pytest.approx(starts["test", "biased"].timestamp(), abs=0.5)
    assert not list(reference.glob("emissions-open*"))


def test_the_attempt_is_written_down(reference: Path) -> None:
    (attempt,) = attempts(reference)
    assert attempt["command"].startswith("python train.py fit --config=configs/miniature.yaml ")
    assert f"--run_dir={reference}" in attempt["command"]
    assert (attempt["devices"], attempt["world_size"], attempt["seed"]) == ("1 x CPU", 1, 1)


@pytest.mark.slow
def test_attempts_that_were_killed_have_records_too(fit: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [*fit, f"--run_dir={run_dir}"]
    for fault in ("kill biased-fit 7", "kill draw 2", "kill biased-test 1"):
        assert run(words, tmp_path / "output", fault).status == -signal.SIGKILL
    outcome = run(words, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert phases(run_dir) == [
        ("fit", "biased"),  # the first attempt, taken over by the second
        ("mining", "biased"), ("captioning", "biased"),
        ("fit", "biased"), ("generation", "biased"),  # both broken off by the second kill
        ("generation", "biased"),  # the fit is over: it has no record any more
        ("test", "biased"),
        ("test", "biased"), ("fit", "debiased"), ("test", "debiased"),
    ]  # fmt: skip
    assert len({record["started"] for record in read_records(run_dir)}) == 10
    assert len(attempts(run_dir)) == 4
    assert [line for line in outcome.out.splitlines() if line.startswith("energy: ")]
    before = {name: (run_dir / name).read_bytes() for name in ("emissions.jsonl", "provenance.jsonl", "results.json")}
    assert call(*words).status == 0  # only shows the table
    assert {name: (run_dir / name).read_bytes() for name in before} == before


def test_an_interrupted_attempt_has_its_record(small: Small, tmp_path: Path) -> None:
    words = ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path / 'run'}"]
    words += ["--trainer.callbacks=tests.faults.FaultyCallback"]
    broken = run(words, tmp_path / "output", "interrupt model-fit 2")
    assert broken.status == 1, broken.err
    assert phases(tmp_path / "run") == [("fit", "model")]
    assert run(words, tmp_path / "output").status == 0
    assert phases(tmp_path / "run") == [("fit", "model"), ("fit", "model"), ("test", "model")]


def test_one_of_two_processes_writes(fit: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    outcomes = run_ranks([*fit, f"--run_dir={run_dir}"], tmp_path / "output")
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes[0].err
    assert phases(run_dir) == CHAIN
    assert {record["devices"] for record in read_records(run_dir)} == {"2 x CPU"}
    (attempt,) = attempts(run_dir)
    assert attempt["world_size"] == 2
    assert [outcome.out.count("validation, %") for outcome in outcomes] == [2, 0]


def test_settings_of_the_costs_may_change(small: Small, tmp_path: Path) -> None:
    words = ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path}"]
    assert call(*words, "--emissions.enabled=false").status == 0
    assert not list(tmp_path.glob("emissions*"))
    assert "emissions" not in json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "stages/01-model/done").unlink()
    outcome = call(*words, "--emissions.country=FRA")
    assert outcome.status == 0, outcome.err
    assert phases(tmp_path) == [("test", "model")]
    assert read_records(tmp_path)[0]["grams_per_kwh"] < 100


@pytest.mark.parametrize(("setting", "part"), [("country=France", "FRA"), ("grams_per_kwh=-1", "at least 0")])
def test_wrong_settings_of_the_costs(setting: str, part: str, small: Small, tmp_path: Path) -> None:
    words = ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path}", f"--emissions.{setting}"]
    outcome = call(*words)
    assert outcome.status == 2
    (error,) = outcome.errors
    assert "emissions." in error
    assert part in error
    assert not (tmp_path / "stages").exists()


def test_a_rehearsal_leaves_no_records(small: Small, tmp_path: Path) -> None:
    words = ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path}"]
    assert call(*words, "--trainer.fast_dev_run=true").status == 0
    assert not list(tmp_path.rglob("*.jsonl"))
    assert not list(tmp_path.rglob("emissions*"))


def test_the_table_grows_on_the_console(small: Small, tmp_path: Path) -> None:
    words = ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path}", "--trainer.max_epochs=2"]
    outcome = call(*words)
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    start = lines.index("validation, %     epoch  train loss  accuracy  aligned  conflict  worst group")
    assert [line.split()[:2] for line in lines[start + 1 : start + 3]] == [["model", "0"], ["model", "1"]]
