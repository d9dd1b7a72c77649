"""Chains on two real processes: the same result as on one, and nobody is left waiting."""

import csv
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.chain import ROOT, TWO, Outcome, Small, call, command, contents, run, run_ranks

TEXTS = ("selection.json", "captions.json", "filter.json")


@pytest.fixture
def after_biased(reference: Path, tmp_path: Path) -> Path:
    """A run folder as a kill right after the biased fit leaves it."""
    run_dir = tmp_path / "run"
    shutil.copytree(reference / "stages/01-biased", run_dir / "stages/01-biased")
    shutil.copy(reference / "config.yaml", run_dir)
    for name in ("done", "test.json"):
        (run_dir / "stages/01-biased" / name).unlink()
    return run_dir


def assert_same_synthesis(run_dir: Path, reference: Path) -> None:
    """Selection, captions and manifest are equal; images are up to rounding, their hashes only if the bytes are."""
    ours, theirs = contents(run_dir / "synthetic"), contents(reference / "synthetic")
    for name in TEXTS:
        assert ours[name] == theirs[name], name
    assert ours.keys() == theirs.keys()
    manifests = [[json.loads(line) for line in own["metadata.jsonl"].splitlines()] for own in (ours, theirs)]
    for our, their in zip(*manifests, strict=True):
        name = our["file_name"]
        assert (our["sha256"] == their["sha256"]) == (ours[name] == theirs[name])
        assert our | {"sha256": ""} == their | {"sha256": ""}
        pixels = [np.asarray(Image.open(folder / "synthetic" / name), dtype=int) for folder in (run_dir, reference)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_lightning_starts_two(fit: list[str], reference: Path, after_biased: Path) -> None:
    """The whole of what follows a biased fit, on two processes that Lightning starts."""
    outcome = command(sys.executable, "train.py", *fit, *TWO, f"--run_dir={after_biased}")
    assert outcome.status == 0, outcome.err
    assert_same_synthesis(after_biased, reference)
    # the same weights, 101 images on two ranks of which one gets a repeated image: the same metrics
    ours, theirs = (json.loads((path / "results.json").read_text())["test"] for path in (after_biased, reference))
    assert ours["biased"] == theirs["biased"]
    assert ours["debiased"].keys() == theirs["debiased"].keys()
    assert outcome.out.count("run folder") == 1


@pytest.mark.slow
def test_torchrun_starts_two(fit: list[str], tmp_path: Path) -> None:
    """A whole chain from nothing under torchrun."""
    run_dir = tmp_path / "run"
    words = [*fit, *TWO, f"--run_dir={run_dir}"]
    outcome = command(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py", *words
    )
    assert outcome.status == 0, outcome.err
    assert len(list((run_dir / "synthetic/images").iterdir())) == 24
    assert list(json.loads((run_dir / "results.json").read_text())["test"]) == ["biased", "debiased"]
    # two ranks halve the steps of an epoch, they do not repeat each other's work
    rows = list(csv.DictReader((run_dir / "stages/01-biased/logs/attempt-0/metrics.csv").open()))
    assert max(int(row["step"]) for row in rows) <= 6


def test_killed_on_two_is_finished_by_one(fit: list[str], reference: Path, after_biased: Path, tmp_path: Path) -> None:
    words = [*fit, f"--run_dir={after_biased}"]
    killed = run_ranks(words, tmp_path / "output", "kill draw 2")
    assert [outcome.status for outcome in killed] == [-signal.SIGKILL] * 2
    kept = contents(after_biased / "synthetic/images")
    assert len(kept) == 8
    finished = run(words, tmp_path / "output")
    assert finished.status == 0, finished.err
    assert "8 drawings are on disk already" in finished.err
    assert_same_synthesis(after_biased, reference)
    assert kept.items() <= contents(after_biased / "synthetic/images").items()


def seconds_since_fault(outcomes: list[Outcome]) -> float:
    """Time from the first fault to now, when all processes have ended."""
    return time.time() - min(
        float(at) for own in outcomes for at in re.findall(r"^fault at (.*)", own.err, re.MULTILINE)
    )


@pytest.mark.parametrize(("fault", "place"), [("raise draw 2 1", "draw"), ("raise caption 1 0", "caption")])
def test_one_rank_fails(fit: list[str], after_biased: Path, tmp_path: Path, fault: str, place: str) -> None:
    outcomes = run_ranks([*fit, f"--run_dir={after_biased}"], tmp_path / "output", fault)
    assert all(outcome.status > 0 for outcome in outcomes)
    for outcome in outcomes:
        assert f"rank {fault[-1]} of 2 failed" in outcome.err
        assert f"broken on purpose at {place}" in outcome.err
    assert seconds_since_fault(outcomes) < 30
    assert not (after_biased / "synthetic/metadata.jsonl").exists()


def test_one_rank_dies(fit: list[str], after_biased: Path, tmp_path: Path) -> None:
    """The other one does not wait for half an hour."""
    survivor, dead = run_ranks([*fit, f"--run_dir={after_biased}"], tmp_path / "output", "kill draw 2 1")
    assert dead.status == -signal.SIGKILL
    assert survivor.status > 0
    assert seconds_since_fault([survivor, dead]) < 30


def test_metrics_and_predictions_of_two(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(reference, tmp_path / "run")
    words = [*fit[1:], f"--run_dir={run_dir}"]

    def rows(name: str) -> list[dict[str, str]]:
        with (run_dir / "predict" / name).open() as file:
            return list(csv.DictReader(file))

    assert call("predict", *words).status == 0
    alone = rows("predictions.csv")
    two = run_ranks(["predict", *words], tmp_path / "output")
    assert two[0].status == two[1].status == 0, two[0].err
    both = sorted(rows("predictions-0.csv") + rows("predictions-1.csv"), key=lambda row: int(row["index"]))
    for ours, theirs in zip(both, alone, strict=True):
        assert [ours[key] for key in ("index", "label")] == [theirs[key] for key in ("index", "label")]
        assert float(ours["probability"]) == pytest.approx(float(theirs["probability"]), abs=1e-5)
    tested = run_ranks(["test", *words], tmp_path / "output")
    wanted = json.loads((reference / "results.json").read_text())["test"]["debiased"]
    assert tested[0].status == 0, tested[0].err
    for name in ("accuracy", "conflict", "worst_group", "balanced"):
        shown = re.search(rf"test/{name}\W+([\d.]+)", tested[0].out)
        assert shown is not None
        assert float(shown[1]) == pytest.approx(wanted[name])


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_spawn_and_fork_are_refused(small: Small, tmp_path: Path, strategy: str) -> None:
    config = ROOT / "configs/miniature_vanilla.yaml"
    words = [f"--config={config}", *small(config), f"--run_dir={tmp_path}", "--trainer.devices=2"]
    outcome = call("fit", *words, f"--trainer.strategy={strategy}")
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert "trainer.strategy" in outcome.errors[0]
    assert "use ddp" in outcome.errors[0]
    assert "Traceback" not in outcome.err
