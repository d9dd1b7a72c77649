"""The command line: help, overrides, loggers, rehearsals."""

import contextlib
import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.chain import ROOT, Small, call, command, contents, vanilla

MINIATURE = ROOT / "configs/miniature.yaml"


# Help, settings and overrides


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_is_quick(words: list[str]) -> None:
    outcome = command(sys.executable, "-X", "importtime", "train.py", *words, timeout=30)
    assert outcome.status == 0
    assert "{fit,validate,test,predict}" in outcome.out
    assert {"sweep", "table", "report"} <= {line.split()[0] for line in outcome.out.splitlines() if line.strip()}
    imported = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in outcome.err.splitlines()}
    assert not imported & {"torch", "lightning", "numpy", "jsonargparse", "transformers", "diffusers"}
    total = sum(int(line.split("|")[0].split(":")[1]) for line in outcome.err.splitlines()[1:] if "|" in line)
    assert total < 5_000_000


def test_the_configuration_of_a_run_goes_on_with_it(reference: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(reference, tmp_path / "mine"))
    (run_dir / "results.json").unlink()
    outcome = call("fit", f"--config={run_dir / 'config.yaml'}")
    assert outcome.status == 0, outcome.err
    assert f"run folder: {run_dir}" in outcome.out
    assert json.loads((run_dir / "results.json").read_text())["config"] == "mine"


def test_help_of_fit_names_every_part() -> None:
    outcome = call("fit", "-h")
    assert outcome.status == 0
    for key in ("--run_dir", "--stages", "--biased", "--model", "--data", "--synthesize.top_k", "--trainer.max_epochs"):
        assert key in outcome.out


def test_overrides_reach_every_part(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = ["--trainer.max_epochs=3", "--model.lr=0.5", "--data.conflict_ratio=0.25", "--biased.q=0.5"]
    words += ["--synthesize.top_k=3", "--stages.debiased.max_epochs=8", "--synthesize.captioner.prompt=hi"]
    words += ["--synthesize.generator.extra={eta: 1.0}", "--model.optimizer.weight_decay=0.25"]
    outcome = call("fit", f"--config={MINIATURE}", *words, f"--run_dir={run_dir}", "--print_config")
    assert outcome.status == 0, outcome.err
    config = yaml.safe_load(outcome.out)
    assert config["trainer"]["max_epochs"] == 3
    assert config["model"]["init_args"]["lr"] == 0.5
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.25
    assert config["data"]["init_args"]["conflict_ratio"] == 0.25
    assert config["biased"]["init_args"]["q"] == 0.5
    assert config["synthesize"]["top_k"] == 3
    assert config["synthesize"]["captioner"]["init_args"]["prompt"] == "hi"
    assert config["synthesize"]["generator"]["init_args"]["extra"] == {"eta": 1.0}
    assert config["stages"]["debiased"]["max_epochs"] == 8
    # what the file says beside the overridden keys stays
    written = yaml.safe_load(MINIATURE.read_text())
    assert written["stages"]["biased"].items() <= config["stages"]["biased"].items()
    assert config["biased"]["init_args"]["lr"] == written["biased"]["init_args"]["lr"]
    assert not run_dir.exists()


def test_settings_arrive_in_the_run(reference: Path) -> None:
    config = yaml.safe_load((reference / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["synthesize"]["top_k"] == 2
    selection = json.loads((reference / "synthetic/selection.json").read_text())
    assert len(selection["items"]) == 2 * 8
    assert len(list((reference / "synthetic/images").iterdir())) == 3 * 8
    for stage, epochs, key in (("01-biased", 2, "q"), ("02-debiased", 2, "synthetic_weight")):
        checkpoint = torch.load(reference / f"stages/{stage}/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["epoch"] == epochs - 1
        assert key in checkpoint["hyper_parameters"]
        assert checkpoint["hyper_parameters"]["lr"] == 0.001
        assert checkpoint["diffubias_stage"] == stage.partition("-")[2]


def test_results_name_seed_and_packages(reference: Path) -> None:
    results = json.loads((reference / "results.json").read_text())
    assert results["seed"] == 1
    assert {"torch", "lightning", "diffusers", "transformers"} <= set(results["packages"])
    assert set(results["test"]) == {"biased", "debiased"}


def test_reuse_takes_over_a_finished_set(fit: list[str], reference: Path, tmp_path: Path) -> None:
    words = [*fit, f"--synthesize.reuse={reference / 'synthetic'}", "--synthesize.captioner.model=none/such"]
    outcome = call(*words, f"--run_dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    ours, theirs = contents(tmp_path / "synthetic/images"), contents(reference / "synthetic/images")
    assert ours == theirs


# Loggers and rehearsals


def test_no_logger(small: Small, tmp_path: Path) -> None:
    outcome = call(*vanilla(small, tmp_path, "--trainer.logger=false"))
    assert outcome.status == 0, outcome.err
    assert not list(tmp_path.rglob("metrics.csv"))
    assert (tmp_path / "results.json").exists()


def test_csv_logger(reference: Path) -> None:
    rows = (reference / "stages/01-biased/logs/attempt-0/metrics.csv").read_text().splitlines()
    for name in ("train/loss", "val/accuracy", "test/conflict", "synthesis/mining_precision", "synthesis/images"):
        assert name in rows[0]


def test_rehearsal_leaves_no_marker(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(reference, tmp_path / "run")
    before = contents(run_dir)
    outcome = call(*fit, f"--run_dir={run_dir}", "--trainer.fast_dev_run=true")
    assert outcome.status == 0, outcome.err
    after = contents(run_dir)
    assert {name: own for name, own in after.items() if not name.startswith("fast_dev_run/")} == before
    rehearsed = {name for name in after if name.startswith("fast_dev_run/")}
    assert not [name for name in rehearsed if name.endswith(("done", "results.json", "config.yaml", ".ckpt"))]
    assert "fast_dev_run/synthetic/metadata.jsonl" in rehearsed


def test_summary_lines(fit: list[str], reference: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "diffubias"), contextlib.suppress(SystemExit):
        outcome = call(*fit, f"--run_dir={reference}")
    assert outcome.status == 0
    assert "run folder" in outcome.out
