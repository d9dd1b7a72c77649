"""Tables of finished runs, from run folders written by hand."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chain import Outcome, call, command

Metrics = dict[str, float]


def write_run(
    folder: Path,
    seed: int,
    last: Metrics,
    results: dict[str, dict[str, Metrics]] | None = None,
    lr: float = 0.1,
    devices: int = 1,
) -> Path:
    """Write a run of the stages `biased` (accuracy 0.1) and `model`."""
    config = {
        "seed_everything": seed,
        "run_dir": str(folder),
        "trainer": {"devices": devices, "max_epochs": 4},
        "model": {"class_path": "some.Module", "init_args": {"lr": lr}},
        "data": {"class_path": "some.Data", "init_args": {"num_workers": seed, "seed": 5}},
    }
    content: dict[str, Any] = {"seed": seed, "test": {"biased": {"accuracy": 0.1}, "model": last}, **(results or {})}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def full(accuracy: float) -> Metrics:
    return {"accuracy": accuracy, "aligned": 1.0, "conflict": 0.25, "worst_group": 0.0, "balanced": 0.5}


def cells(outcome: Outcome) -> list[list[str]]:
    """The cells of every line below the header."""
    assert outcome.status == 0, outcome.err
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in outcome.out.splitlines()[1:]]


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.7)):
        best = {"best_validation": {"model": full(0.8)}, "best_test": {"model": full(accuracy + 0.1)}}
        write_run(tmp_path / f"runs/method/seed-{seed}", seed, full(accuracy), best)
    write_run(tmp_path / "runs/other-seed-4", 4, full(0.9), lr=0.2)
    outcome = call("table", str(tmp_path / "runs"))
    same = ["100.0 ± 0.0", "25.0 ± 0.0", "0.0 ± 0.0"]
    # sample deviation of 50, 60, 70: sqrt((100 + 0 + 100) / 2)
    assert cells(outcome) == [
        ["method", "model", "last epoch", "3", "60.0 ± 10.0", *same],
        ["method", "model", "best validation", "3", "80.0 ± 0.0", *same],
        ["method", "model", "best test*", "3", "70.0 ± 10.0", *same],
        ["other", "model", "last epoch", "1", "90.0 ± -", "100.0 ± -", "25.0 ± -", "0.0 ± -"],
        ["*selected on the test set"],
    ]


def test_stages_and_metrics_are_chosen(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"a-seed{seed}", seed, full(seed / 10))
    outcome = call("table", str(tmp_path), "--stages", "all", "--metric", "balanced", "accuracy")
    assert cells(outcome) == [
        ["a", "biased", "last epoch", "2", "-", "10.0 ± 0.0"],
        ["a", "model", "last epoch", "2", "50.0 ± 0.0", "15.0 ± 7.1"],
        ["no bias labels in the test set of a: aligned, conflict and worst group cannot be told"],
    ]


def test_a_set_without_bias_labels(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-1", 1, {"accuracy": 0.5})
    (line, note) = cells(call("table", str(tmp_path)))
    assert line == [tmp_path.name, "model", "last epoch", "1", "50.0 ± -", "-", "-", "-"]
    assert note[0].startswith("no bias labels")


def test_groups_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for place, lr in (("one", 0.1), ("two", 0.2)):
        for seed in (1, 2):
            write_run(tmp_path / place / f"x/seed-{seed}", seed, full(0.5), lr=lr)
    words = [str(tmp_path / place / "x") for place in ("one", "two")]
    assert [line[0] for line in cells(call("table", *words))] == ["x [model.lr=0.1]", "x [model.lr=0.2]"]
    # from further up their paths tell
    assert [line[0] for line in cells(call("table", str(tmp_path)))] == ["one/x", "two/x"]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1, full(0.5))
    write_run(tmp_path / "copy-of-a", 1, full(0.5))
    line, note = cells(call("table", str(tmp_path)))
    assert line[:5] == ["a", "model", "last epoch", "1", "50.0 ± -"]
    assert "left out" in note[0]
    assert "copy-of-a" in note[0]


def test_more_processes_are_another_setting(tmp_path: Path) -> None:
    for devices in (1, 8):
        write_run(tmp_path / f"{devices}/a", 1, full(0.5), devices=devices)
    lines = cells(call("table", str(tmp_path / "1/a"), str(tmp_path / "8/a")))
    assert [line[0] for line in lines] == ["a [devices=1]", "a [devices=8]"]


def test_runs_below_a_run_are_found(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", 1, full(0.5))
    write_run(tmp_path / "runs/a/seed-2", 2, full(0.5))
    (tmp_path / "runs/a/test/x").mkdir(parents=True)
    (tmp_path / "runs/a/test/x/config.yaml").touch()
    (line,) = cells(call("table", str(tmp_path / "runs")))
    assert line[:4] == ["a", "model", "last epoch", "2"]


def test_a_run_in_which_nothing_classifies_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", 1, full(0.5))
    captioner = write_run(tmp_path / "runs/captioner", 1, full(0.5)) / "results.json"
    captioner.write_text(json.dumps({"seed": 1}))
    line, note = cells(call("table", str(tmp_path / "runs")))
    assert line[0] == "a"
    assert note[0].startswith("left out, nothing in it classifies: ")
    assert note[0].endswith("runs/captioner")


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a/seed-1", 1, full(0.5))
    (write_run(tmp_path / "runs/a/seed-2", 2, full(0.5)) / "results.json").unlink()
    (tmp_path / "runs/notes.txt").touch()
    line, note = cells(call("table", *map(str, (tmp_path / "runs").iterdir())))
    assert line[3] == "1"
    assert "not finished" in note[0]
    assert note[0].endswith("a/seed-2")


def test_csv_has_every_single_value(tmp_path: Path) -> None:
    for seed in (1, 2):
        best = {"best_test": {"model": full(0.75)}}
        write_run(tmp_path / f"runs/a/seed-{seed}", seed, full(seed / 8), best)
    file = tmp_path / "out" / "values.csv"
    assert call("table", str(tmp_path / "runs"), f"--csv={file}", "--metric=accuracy").status == 0
    rows = list(csv.DictReader(file.open()))
    assert [(r["group"], r["seed"], r["stage"], r["selection"], r["metric"], r["value"]) for r in rows] == [
        ("a", "1", "model", "test", "accuracy", "0.125"),
        ("a", "2", "model", "test", "accuracy", "0.25"),
        ("a", "1", "model", "best_test", "accuracy", "0.75"),
        ("a", "2", "model", "best_test", "accuracy", "0.75"),
    ]
    assert rows[0]["run"].endswith("runs/a/seed-1")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["no/such"], ["no/such", "give run folders"]),
        (["{root}"], ["no finished run", "fit"]),
        (["{root}/ok", "--metric", "acuracy"], ["--metric", "acuracy", "accuracy, aligned, balanced"]),
        (["{root}/torn"], ["torn", "run fit there again"]),
        (["{root}/list"], ["list", "run fit there again"]),
        (["{root}/loop"], ["loop", "run fit there again"]),
        (["{root}/ok", "--csv={root}"], ["--csv", "Is a directory", "another file"]),
        (["{root}/ok", "--csv={root}/ok/results.json/x"], ["--csv", "File exists", "another file"]),
        ([], ["FOLDER"]),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], parts: list[str], tmp_path: Path) -> None:
    if "{root}/ok" in words:
        write_run(tmp_path / "ok", 1, full(0.5))
    if "{root}/torn" in words:
        (write_run(tmp_path / "torn", 1, full(0.5)) / "results.json").write_text('{"seed"')
    if "{root}/list" in words:
        (write_run(tmp_path / "list", 1, full(0.5)) / "results.json").write_text("[]")
    if "{root}/loop" in words:
        (write_run(tmp_path / "loop", 1, full(0.5)) / "config.yaml").unlink()
        (tmp_path / "loop/config.yaml").symlink_to("config.yaml")  # cannot be read by anybody
    outcome = call("table", *(word.replace("{root}", str(tmp_path)) for word in words))
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("error: ")
    assert all(part in outcome.err for part in parts), outcome.err


@pytest.mark.parametrize("name", ["table", "sweep"])
def test_no_heavy_import(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1, full(0.5))
    words = [name, str(tmp_path)] if name == "table" else [name, "-h"]
    outcome = command(sys.executable, "-X", "importtime", "train.py", *words, timeout=30)
    assert outcome.status == 0, outcome.err
    imported = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in outcome.err.splitlines()}
    assert not imported & {"torch", "lightning", "numpy", "jsonargparse", "transformers", "diffusers"}
