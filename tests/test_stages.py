"""Stages: their beginnings, their repeats, what they hand on, and the epoch that is chosen."""

import csv
import json
import re
import signal
from pathlib import Path

import pytest
import torch

from callbacks.test_curve import read_curve
from tests.chain import ROOT, Small, assert_one_line, call, contents, reached, run, vanilla
from tests.stages import HANDED

VANILLA = ROOT / "configs/miniature_vanilla.yaml"


@pytest.mark.parametrize(("epoch", "selection"), [("last", "test"), ("best", "best_validation")])
def test_a_stage_starts_from_an_earlier_one(small: Small, tmp_path: Path, epoch: str, selection: str) -> None:
    second = f"{{module: model, init_from: first, init_epoch: {epoch}, trainer: {{limit_train_batches: 0}}}}"
    stages = f"{{first: {{module: model, max_epochs: 4}}, second: {second}}}"
    # at this rate the last epoch is not the best one
    words = [*small(VANILLA), "--model.lr=0.01", f"--stages={stages}", f"--run_dir={tmp_path}"]
    assert call("fit", f"--config={VANILLA}", *words).status == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test"]["first"] != results["best_validation"]["first"]
    # the second does not train at all: it is the first
    assert results["test"]["second"] == results[selection]["first"]


def fitted(small: Small, run_dir: Path, words: list[str]) -> Path:
    """Fit one plain chain with further words; its run folder."""
    outcome = call(*vanilla(small, run_dir, *words))
    assert outcome.status == 0, outcome.err
    return run_dir


REPEATED = "{first: {module: biased, repeat: 2}, second: {module: model, batch_size: 8, uses: {teachers: first}}}"
HELPED = [
    f"--stages={REPEATED}", "--biased=lightning_modules.BiasedModule", "--biased.backbone=smallresnet",
    "--model=tests.stages.Helped", "--trainer.max_epochs=2", "--trainer.callbacks=tests.faults.FaultyCallback",
]  # fmt: skip


@pytest.fixture(scope="module")
def repeated(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a chain whose last stage is handed both fits of the first."""
    return fitted(small, tmp_path_factory.mktemp("repeated") / "run", HELPED)


def weights(run_dir: Path, folder: str) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run_dir / "stages" / folder / "checkpoints/last.ckpt", weights_only=True)
    found: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return found


def are_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stage_is_repeated_with_seeds_of_its_own(repeated: Path) -> None:
    assert sorted(path.name for path in (repeated / "stages").iterdir()) == ["01-first-1", "02-first-2", "03-second"]
    assert not are_equal(weights(repeated, "01-first-1"), weights(repeated, "02-first-2"))
    results = json.loads((repeated / "results.json").read_text())
    for part in ("test", "best_validation", "groups"):
        assert list(results[part]) == ["first-1", "first-2", "second"]


def test_a_stage_is_handed_the_trained_modules_of_another(repeated: Path) -> None:
    handed = torch.load(repeated / "stages/03-second" / HANDED, weights_only=True)
    assert list(handed) == ["teachers"]
    for ours, folder in zip(handed["teachers"], ("01-first-1", "02-first-2"), strict=True):
        assert are_equal(ours, weights(repeated, folder))
    # they are no part of the module that uses them
    assert weights(repeated, "03-second").keys() == weights(repeated, "01-first-1").keys()


def test_a_stage_has_batches_of_its_own_size(repeated: Path) -> None:
    paths = [repeated / "stages" / name / "checkpoints/last.ckpt" for name in ("01-first-1", "03-second")]
    steps = [torch.load(path, weights_only=True)["global_step"] for path in paths]
    assert steps == [2 * 160 // 32, 2 * 160 // 8]  # two epochs of 160 images


@pytest.mark.slow
def test_a_repeated_stage_goes_on_after_a_kill(small: Small, repeated: Path, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path / "run", *HELPED)
    for fault in ("kill first-2-fit 7", "kill second-fit 7"):
        assert run(words, tmp_path / "output", fault).status == -signal.SIGKILL
    outcome = run(words, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert reached(tmp_path / "run") == reached(repeated)
    assert are_equal(weights(tmp_path / "run", "03-second"), weights(repeated, "03-second"))


def test_the_last_stage_is_what_is_tested(small: Small, repeated: Path) -> None:
    outcome = call("test", *vanilla(small, repeated, *HELPED)[1:])
    assert outcome.status == 0, outcome.err
    (accuracy,) = re.findall(r"test/accuracy\W+([\d.]+)", outcome.out)
    results = json.loads((repeated / "results.json").read_text())
    assert float(accuracy) == pytest.approx(results["test"]["second"]["accuracy"])


def test_a_change_of_the_repeats_is_refused(small: Small, repeated: Path) -> None:
    before = contents(repeated)
    stages = REPEATED.replace("repeat: 2", "repeat: 1")
    outcome = call(*vanilla(small, repeated, *HELPED, f"--stages={stages}"))
    assert_one_line(outcome, "run_dir", "stages.first.repeat: 2 -> 1")
    assert contents(repeated) == before


WATCHED = ["--data.watch_test=true", "--data.train_size=320", "--trainer.max_epochs=4"]
WATCHED += ["--trainer.callbacks=tests.stages.Spoiler"]


@pytest.fixture(scope="module")
def watched(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fit that is watched on the test set and that loses its weights in the last epoch."""
    return fitted(small, tmp_path_factory.mktemp("watched") / "run", WATCHED)


def test_the_epoch_that_validation_selected_is_tested_too(watched: Path) -> None:
    results = json.loads((watched / "results.json").read_text())
    stage = watched / "stages/01-model"
    curve = {row["step"]: row for row in read_curve(stage)}
    assert [row["epoch"] for row in curve.values()] == [0, 1, 2, 3]
    files = [stage / f"checkpoints/{name}.ckpt" for name in ("best", "last")]
    steps = [torch.load(file, weights_only=True)["global_step"] for file in files]
    assert steps[0] < steps[1] == max(curve)
    # the curve was written in training, from the same weights
    for selection, step in (("best_validation", steps[0]), ("test", steps[1])):
        row = curve[step]
        assert results[selection]["model"] == {key: row[key] for key in row if key not in ("epoch", "step")}
    best = max(row["accuracy"] for row in curve.values())
    assert results["best_test"]["model"]["accuracy"] == best
    assert results["test"]["model"]["aligned"] < results["best_validation"]["model"]["aligned"]


def test_groups_add_up_to_the_metrics_of_the_last_epoch(watched: Path) -> None:
    results = json.loads((watched / "results.json").read_text())
    groups, metrics = results["groups"]["model"], results["test"]["model"]
    assert len(groups) == 64
    assert sum(group["count"] for group in groups) == 101
    assert sum(group["correct"] for group in groups) / 101 == pytest.approx(metrics["accuracy"])
    names = list(dict.fromkeys(group["label"] for group in groups))
    backgrounds = list(dict.fromkeys(group["bias"] for group in groups))
    assert not set(names) & set(backgrounds)
    aligned = [group for group in groups if names.index(group["label"]) == backgrounds.index(group["bias"])]
    correct, count = (sum(group[key] for group in aligned) for key in ("correct", "count"))
    assert correct / count == pytest.approx(metrics["aligned"])


def test_loggers_see_the_last_epoch_only(watched: Path) -> None:
    rows = list(csv.DictReader((watched / "stages/01-model/logs/attempt-0/metrics.csv").open()))
    logged = [float(row["test/accuracy"]) for row in rows if row["test/accuracy"]]
    results = json.loads((watched / "results.json").read_text())
    assert logged == [pytest.approx(results["test"]["model"]["accuracy"])]


def test_the_same_weights_are_not_tested_twice(small: Small, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path / "run", "--trainer.callbacks=tests.faults.FaultyCallback")
    outcome = run(words, tmp_path / "output", "raise model-test 2")
    assert outcome.status == 0, outcome.err
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["best_validation"] == results["test"]
    # the last checkpoint knows of the best one
    checkpoint = torch.load(tmp_path / "run/stages/01-model/checkpoints/last.ckpt", weights_only=True)
    (best,) = (state for name, state in checkpoint["callbacks"].items() if "val/accuracy" in name)
    assert best["best_model_score"] is not None


def test_the_selected_epoch_is_remembered_when_a_fit_goes_on(small: Small, watched: Path, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path / "run", *WATCHED)
    # ten batches an epoch: in the last, after the best one was saved
    assert run(words, tmp_path / "output", "kill model-fit 35").status == -signal.SIGKILL
    outcome = run(words, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert reached(tmp_path / "run") == reached(watched)
    curve = "stages/01-model/test_curve.csv"
    assert (tmp_path / "run" / curve).read_text() == (watched / curve).read_text()


def test_rehearsal_of_a_stage_that_starts_from_another(small: Small, tmp_path: Path) -> None:
    stages = "{first: {module: model}, second: {module: model, init_from: first, uses: {teachers: first}}}"
    words = [f"--stages={stages}", "--model=tests.stages.Helped", "--trainer.fast_dev_run=true"]
    outcome = call(*vanilla(small, tmp_path, *words))
    assert outcome.status == 0, outcome.err
