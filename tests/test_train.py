"""The command line: overrides, one-line complaints, loggers, rehearsals."""

import contextlib
import csv
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from callbacks.loggers import run_name
from callbacks.synthesis.part import digest
from callbacks.test_curve import read_curve
from tests.chain import ROOT, Outcome, Small, call, command, contents, reached, run
from tests.stages import HANDED
from tests.wandb_runs import records

MINIATURE = ROOT / "configs/miniature.yaml"
VANILLA = ROOT / "configs/miniature_vanilla.yaml"
BAR = ROOT / "configs/bar.yaml"


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Status 2 and one line that names what is wrong and what to do, without a traceback."""
    assert outcome.status == 2, outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.errors[0]) < 600
    for part in parts:
        assert part in outcome.errors[0]


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


REPEATED = "{first: {module: biased, repeat: 2}, second: {module: model, uses: {teachers: first}}}"
HELPED = [
    f"--stages={REPEATED}", "--biased=lightning_modules.BiasedModule", "--biased.backbone=smallresnet",
    "--model=tests.stages.Helped", "--trainer.max_epochs=2", "--trainer.callbacks=tests.faults.FaultyCallback",
]  # fmt: skip


@pytest.fixture(scope="module")
def repeated(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a chain whose last stage is handed both fits of the first."""
    run_dir = tmp_path_factory.mktemp("repeated") / "run"
    outcome = call(*vanilla(small, run_dir, *HELPED))
    assert outcome.status == 0, outcome.err
    return run_dir


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
    run_dir = tmp_path_factory.mktemp("watched") / "run"
    outcome = call(*vanilla(small, run_dir, *WATCHED))
    assert outcome.status == 0, outcome.err
    return run_dir


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


def test_reuse_takes_over_a_finished_set(fit: list[str], reference: Path, tmp_path: Path) -> None:
    words = [*fit, f"--synthesize.reuse={reference / 'synthetic'}", "--synthesize.captioner.model=none/such"]
    outcome = call(*words, f"--run_dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    ours, theirs = contents(tmp_path / "synthetic/images"), contents(reference / "synthetic/images")
    assert ours == theirs


# Mistakes


def test_unknown_flag(small: Small, tmp_path: Path) -> None:
    outcome = call("fit", f"--config={MINIATURE}", "--model.learning_rate=1", f"--run_dir={tmp_path}")
    assert_one_line(outcome, "model", "learning_rate")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--config=no.yaml"], ["no.yaml"]),
        (["fit", "--config={MINIATURE}", "--biased.q=2"], ["q", "2"]),
        (["fit", "--config={MINIATURE}", "--biased.q=high"], ["biased", "q"]),
        (["fit", "--config={MINIATURE}", "--model.backbone=resnet19"], ["backbone", "resnet19", "resnet18"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.data=fake"], ["stages", "data"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.module=none"], ["stages.debiased.module", "none"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.init_from=later"], ["stages.debiased.init_from", "later"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: later}"], ["stages.debiased.uses.x", "later"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: debiased}"], ["stages.debiased.uses.x", "biased"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: biased}"], ["uses", "x", "DebiasedModule"]),
        (
            ["fit", "--config={MINIATURE}", "--model=LfF", "--stages.debiased.uses={ensemble: biased}"],
            ["model.agreement", "3"],
        ),
        (["fit", "--config={MINIATURE}", "--model=JTT"], ["uses", "identification"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.repeat=0"], ["stages.debiased.repeat", "0"]),
        (["fit", "--config={MINIATURE}", "--stages.biased.repeat=2"], ["stages.biased.repeat", "one fit"]),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.trainer={epochs: 1}"],
            ["stages.debiased.trainer.epochs"],
        ),
        (["fit", "--config={MINIATURE}", "--data.conflict_ratio=5"], ["data.conflict_ratio", "0.05"]),
        (["fit", "--config={MINIATURE}", "--synthesize.top_k=0"], ["synthesize.top_k"]),
        (["fit", "--config={MINIATURE}", "--synthesize.top_k=100000"], ["synthesize.top_k=100000", "lower it"]),
        (["fit", "--config={MINIATURE}", "--synthesize.images=0"], ["synthesize.images"]),
        (["fit", "--config={MINIATURE}", "--synthesize.captioner=null"], ["synthesize.captioner"]),
        (["fit", "--config={MINIATURE}", "--synthesize.reuse=no/such"], ["synthesize.reuse", "no/such"]),
        (["fit", "--config={MINIATURE}", "--ckpt_path=some.ckpt"], ["ckpt_path"]),
        (["fit", "--config={MINIATURE}", "--trainer.max_time=00:00:00:01"], ["trainer.max_time"]),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.init_from=biased", "--model.backbone=resnet18"],
            ["stages.debiased.init_from", "smallresnet", "resnet18"],
        ),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.init_from=biased", "--model=lightning_modules.DisEnt"],
            ["stages.debiased.init_from", "network of biased (BiasedModule)", "DisEnt"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--stages.amplifier.init_from=diffusion"],
            ["stages.amplifier.init_from", "model of diffusion (ClassDiffusion)", "Vanilla"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--stages.diffusion.synthesize=start"],
            ["before ClassDiffusion has learnt anything"],
        ),
        (
            [
                "fit",
                "--config=configs/miniature_ddb_1.yaml",
                "--stages.diffusion.synthesize=no",
                "--stages.amplifier.synthesize=end",
            ],
            ["synthesize.generator.folder", "fitted Vanilla"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--diffusion.size=15"],
            ["diffusion.size=15", "multiple of 2"],
        ),
        (["fit", "--config=configs/miniature_usb.yaml", "--synthesize.images=aligned"], ["synthesize.images=aligned"]),
        (["test", "--config={MINIATURE}"], ["ckpt_path", "run fit to its end"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value[2:]) or value[0] if value[0] in ("fit", "test", "nonsense") else "",
)
def test_wrong_settings(words: list[str], parts: list[str], tmp_path: Path) -> None:
    words = [word.replace("{MINIATURE}", str(MINIATURE)) for word in words]
    run_dir = tmp_path / "run"
    outcome = call(*words, *([f"--run_dir={run_dir}"] if len(words) > 1 else []))
    assert_one_line(outcome, *parts)
    # refused before any work
    assert not (run_dir / "stages").exists()


def test_missing_data_folder(small: Small, tmp_path: Path) -> None:
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}"]
    assert_one_line(call("fit", *words, f"--data.root={tmp_path / 'none'}"), "data.root", "none", "github.com")
    (tmp_path / "empty").mkdir()
    assert_one_line(call("fit", *words, f"--data.root={tmp_path / 'empty'}"), "data.root", "empty", "train")


def break_image(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "unreadable":
        path.write_text("this is no picture")
    else:
        for other in path.parent.glob("diving_*"):
            other.unlink()


@pytest.mark.parametrize(
    ("how", "workers", "parts"),
    [
        ("truncated", 0, ["diving_1.jpg", "replace the file or delete it"]),
        ("unreadable", 1, ["diving_1.jpg", "replace the file or delete it"]),
        ("no sample", 0, ["'diving'", "add images"]),
    ],
)
def test_bad_data(how: str, workers: int, parts: list[str], small: Small, tmp_path: Path) -> None:
    root = shutil.copytree(small.root("BAR"), tmp_path / "BAR")
    break_image(root / "train" / "diving_1.jpg", how)
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}"]
    outcome = call("fit", *words, f"--data.root={root}", f"--data.num_workers={workers}")
    assert_one_line(outcome, *parts)


def test_all_kinds_of_images(small: Small, tmp_path: Path) -> None:
    """Grayscale, CMYK, palette and turned pictures go through the whole chain."""
    root = shutil.copytree(small.root("BAR"), tmp_path / "BAR")
    for name, mode in (("diving_1", "L"), ("fishing_1", "CMYK")):
        file = root / "train" / f"{name}.jpg"
        Image.open(file).convert(mode).save(file)
    palette = root / "train" / "racing_1.jpg"
    Image.open(palette).convert("P").save(palette.with_suffix(".png"))
    palette.unlink()
    turned = root / "train" / "throwing_1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(turned).save(turned, exif=exif)
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}", f"--data.root={root}"]
    words += ["--biased.backbone=smallresnet", "--model.backbone=smallresnet"]
    outcome = call("fit", *words, "--synthesize.top_k=4", "--synthesize.images=1")
    assert outcome.status == 0, outcome.err


def test_top_k_beyond_a_class_warns(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ROOT / "configs/miniature_control.yaml"
    words = [f"--config={config}", *small(config), f"--run_dir={tmp_path}", "--synthesize.top_k=1000"]
    words += ["--data.mined_repeat=1"]
    outcome = call("fit", *words)
    assert outcome.status == 0, outcome.err
    assert "top_k 1000 exceeds the 20 images of class 0: the whole class is taken" in caplog.text
    assert len(json.loads((tmp_path / "synthetic/selection.json").read_text())["items"]) == 160


@pytest.mark.parametrize("part", ["captioner", "generator"])
@pytest.mark.parametrize("fault", ["no weights", "half the weights", "no folder", "hub id", "fetch without network"])
def test_wrong_model_is_noticed_before_the_fit(part: str, fault: str, small: Small, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model, download, remedy = str(folder), "false", "save the model there"
    if fault in ("no weights", "half the weights"):
        shutil.copytree(getattr(small, part), folder)
        weights = next(folder.rglob("*.safetensors"))
        if fault == "half the weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        else:
            for path in folder.rglob("*.safetensors"):
                path.unlink()
    elif fault == "no folder":
        remedy = "give an existing folder or a hub id"
    elif fault == "hub id":
        model, remedy = "nobody/nothing", f"set synthesize.{part}.download=true"
    else:
        model, download, remedy = "nobody/nothing", "true", "check the network"
    run_dir = tmp_path / "run"
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={run_dir}"]
    words += [f"--synthesize.{part}.model={model}", f"--synthesize.{part}.download={download}"]
    assert_one_line(call("fit", *words), f"synthesize.{part}.model", model, remedy)
    assert not (run_dir / "stages").exists()


def test_other_settings_in_a_run_folder(fit: list[str], reference: Path) -> None:
    before = contents(reference)
    outcome = call(*fit, f"--run_dir={reference}", "--model.lr=0.5", "--data.conflict_ratio=0.2")
    assert_one_line(
        outcome, "run_dir", "model.init_args.lr: 0.001 -> 0.5", "data.init_args.conflict_ratio: 0.1 -> 0.2",
        "give another --run_dir",
    )  # fmt: skip
    assert contents(reference) == before


def test_a_first_attempt_that_failed_does_not_hold_the_folder(small: Small, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path)
    assert_one_line(call(*words, "--model.lr=1e30"), "loss")
    assert call(*words).status == 0
    assert (tmp_path / "results.json").exists()


def test_a_failed_last_stage_is_mended_in_the_same_folder(fit: list[str], reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/02-debiased")
    words = [*fit, f"--run_dir={tmp_path / 'run'}"]
    assert_one_line(call(*words, "--model.lr=1e30"), "loss", "model.lr")
    assert_one_line(call("test", *words[1:]), "ckpt_path", "02-debiased")
    assert call(*words).status == 0
    assert contents(tmp_path / "run/stages/01-biased") == contents(reference / "stages/01-biased")
    assert reached(tmp_path / "run") == reached(reference)


def test_the_strip_is_drawn_if_a_kill_came_before_it(fit: list[str], reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/synthetic/strip.png").unlink()
    (tmp_path / "run/stages/01-biased/done").unlink()
    assert call(*fit, f"--run_dir={tmp_path / 'run'}").status == 0
    strip = "synthetic/strip.png"
    assert (tmp_path / "run" / strip).read_bytes() == (reference / strip).read_bytes()


def test_a_selection_of_other_data_is_not_taken_over(fit: list[str], reference: Path, tmp_path: Path) -> None:
    words = [*fit, f"--synthesize.reuse={reference / 'synthetic'}", "--data.mined_repeat=2", "--data.train_size=88"]
    assert_one_line(call(*words, f"--run_dir={tmp_path}"), "selection.json")
    assert not (tmp_path / "synthetic/selection.json").exists()


def test_checkpoint_of_another_network(small: Small, reference: Path, tmp_path: Path) -> None:
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={tmp_path}", "--model.backbone=resnet18"]
    checkpoint = reference / "stages/02-debiased/checkpoints/last.ckpt"
    assert_one_line(call("test", *words, f"--ckpt_path={checkpoint}"), "backbone", "smallresnet", "resnet18")


def test_loss_that_is_not_a_number(small: Small, tmp_path: Path) -> None:
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={tmp_path}"]
    assert_one_line(call("fit", *words, "--biased.lr=1e30"), "loss", "epoch 0", "lr", "precision")
    assert not (tmp_path / "stages/01-biased/fit_done").exists()
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has no room for a checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(small: Small, full_disk: Path) -> None:
    words = [f"--config={VANILLA}", *small(VANILLA), f"--run_dir={full_disk / 'run'}"]
    assert_one_line(call("fit", *words), str(full_disk), "run the same command again")
    subprocess.run(["mount", "-o", "remount,size=30m", full_disk], check=True)
    outcome = call("fit", *words)
    assert outcome.status == 0, outcome.err


# Loggers and rehearsals


def vanilla(small: Small, run_dir: Path, *words: str) -> list[str]:
    return ["fit", f"--config={VANILLA}", *small(VANILLA), f"--run_dir={run_dir}", *words]


def test_no_logger(small: Small, tmp_path: Path) -> None:
    outcome = call(*vanilla(small, tmp_path, "--trainer.logger=false"))
    assert outcome.status == 0, outcome.err
    assert not list(tmp_path.rglob("metrics.csv"))
    assert (tmp_path / "results.json").exists()


def test_csv_logger(reference: Path) -> None:
    rows = (reference / "stages/01-biased/logs/attempt-0/metrics.csv").read_text().splitlines()
    for name in ("train/loss", "val/accuracy", "test/conflict", "synthesis/mining_precision", "synthesis/images"):
        assert name in rows[0]


def in_root() -> set[Path]:
    """What is in the repository, but for what other processes of the tests leave on the coverage."""
    return {path for path in ROOT.iterdir() if not path.name.startswith(".coverage")}


def test_wandb_offline(fit: list[str], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    here = in_root()
    run_dir = tmp_path / "my-run"
    words = [*fit, f"--run_dir={run_dir}", "--trainer.logger=WandbLogger", "--trainer.logger.offline=true"]
    outcome = run(words, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    assert in_root() == here
    (file,) = run_dir.rglob("*.wandb")
    found = next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    place = digest(str(run_dir.resolve()))[:8]  # runs of a sweep have folders of one name in different places
    assert (found.run_id, found.display_name, found.project) == (f"my-run-{place}", "my-run", "diffubias")
    assert file.relative_to(run_dir).parts[0] == "wandb"
    assert "wandb run already in progress" not in outcome.err


def test_runs_of_a_sweep_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_name(Path("runs/bar/model.lr=0.1/seed-1")) == "bar-model.lr_0.1-seed-1"
    assert run_name(Path("runs/bar")) == "bar"
    assert run_name(tmp_path / "elsewhere" / "größe 1") == "gr__e_1"


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


def test_rehearsal_of_a_stage_that_starts_from_another(small: Small, tmp_path: Path) -> None:
    stages = "{first: {module: model}, second: {module: model, init_from: first, uses: {teachers: first}}}"
    words = [f"--stages={stages}", "--model=tests.stages.Helped", "--trainer.fast_dev_run=true"]
    outcome = call(*vanilla(small, tmp_path, *words))
    assert outcome.status == 0, outcome.err


def test_summary_lines(fit: list[str], reference: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "diffubias"), contextlib.suppress(SystemExit):
        outcome = call(*fit, f"--run_dir={reference}")
    assert outcome.status == 0
    assert "run folder" in outcome.out
