"""Runs that are killed, interrupted and cut off go on where they stopped and end as unbroken ones."""

import json
import signal
from pathlib import Path

import pytest

from tests.chain import contents, files, reached, run

SYNTHETIC = ("selection.json", "captions.json", "filter.json", "plan.json", "metadata.jsonl", "rejected.jsonl")
FIRST_STAGE = "stages/01-biased/"
# Where the process kills itself, what is there and what is not there yet, and what the next attempt must not touch.
KILLS = [
    ("kill biased-fit 7", ["stages/01-biased/checkpoints/last.ckpt"], ["stages/01-biased/fit_done"], ["config.yaml"]),
    ("kill caption 2", ["synthetic/selection.json", "synthetic/partial/captions-0.jsonl"], ["synthetic/captions.json"],
     [f"{FIRST_STAGE}fit_done", "synthetic/selection.json"]),
    ("kill draw 3", ["synthetic/plan.json", "synthetic/images/000007.png"], ["synthetic/images/000008.png"],
     [f"{FIRST_STAGE}fit_done", "synthetic/selection.json", "synthetic/captions.json", "synthetic/images/000007.png"]),
    ("kill judge 2", ["synthetic/images/000008.png"], ["synthetic/images/000009.png"],
     ["synthetic/captions.json", "synthetic/images/000007.png"]),
    ("kill biased-test 1", ["synthetic/metadata.jsonl"], [f"{FIRST_STAGE}test.json", "synthetic/partial"],
     [f"{FIRST_STAGE}fit_done", "synthetic/"]),
    ("kill debiased-fit 8", [f"{FIRST_STAGE}done", "stages/02-debiased/checkpoints/last.ckpt"],
     ["stages/02-debiased/fit_done"], [FIRST_STAGE, "synthetic/"]),
]  # fmt: skip


def test_killed_everywhere_equals_unbroken(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [*fit, f"--run_dir={run_dir}"]
    kept: dict[str, tuple[int, bytes]] = {}
    for fault, present, absent, untouched in KILLS:
        outcome = run(command, tmp_path / "output", fault)
        assert outcome.status == -signal.SIGKILL, (fault, outcome.err)
        after = files(run_dir)
        assert all((run_dir / name).exists() for name in present), (fault, sorted(after))
        assert not any((run_dir / name).exists() for name in absent), (fault, sorted(after))
        assert {name: file for name, file in after.items() if name in kept} == kept, fault
        kept = {name: file for name, file in after.items() if name.startswith(tuple(untouched))}
    outcome = run(command, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert kept.items() <= files(run_dir).items()
    assert_equal_runs(run_dir, reference)
    # every attempt has its own log, and what a killed one had logged is still there
    assert (run_dir / "stages/01-biased/logs/attempt-0/metrics.csv").read_text().count("\n") > 1
    assert len(list((run_dir / FIRST_STAGE / "logs").iterdir())) > 2


def assert_equal_runs(run_dir: Path, reference: Path) -> None:
    ours, theirs = contents(run_dir), contents(reference)
    for name in SYNTHETIC:
        assert ours[f"synthetic/{name}"] == theirs[f"synthetic/{name}"], name
    images = {name for name in theirs if name.startswith("synthetic/images/")}
    assert {name for name in ours if name.startswith("synthetic/images/")} == images
    assert all(ours[name] == theirs[name] for name in images)
    records = [json.loads(line) for line in ours["synthetic/metadata.jsonl"].splitlines()]
    assert [record["file_name"] for record in records] == [f"images/{number:06d}.png" for number in range(24)]
    for name in ("stages/01-biased/test.json", "stages/02-debiased/test.json"):
        assert ours[name] == theirs[name], name
    assert reached(run_dir) == reached(reference)


@pytest.mark.parametrize(("fault", "status"), [("interrupt debiased-fit 8", 1), ("terminate biased-fit 7", 143)])
def test_interrupted_goes_on(fit: list[str], reference: Path, tmp_path: Path, fault: str, status: int) -> None:
    run_dir = tmp_path / "run"
    command = [*fit, f"--run_dir={run_dir}"]
    broken = run(command, tmp_path / "output", fault)
    stage = "01-biased" if "biased-fit" in fault.split() else "02-debiased"
    assert broken.status == status, broken.err
    assert not (run_dir / "stages" / stage / "fit_done").exists()
    assert not (run_dir / "results.json").exists()
    outcome = run(command, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert_equal_runs(run_dir, reference)


def test_a_finished_run_only_shows_its_table(fit: list[str], reference: Path, tmp_path: Path) -> None:
    before = files(reference)
    outcome = run([*fit, f"--run_dir={reference}", "--synthesize.captioner.batch_size=2"], tmp_path)
    assert outcome.status == 0, outcome.err
    assert "debiased" in outcome.out
    after = files(reference)
    after.pop("results.json"), before.pop("results.json")
    assert after == before
