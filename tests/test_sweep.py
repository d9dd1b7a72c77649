"""Sweeps: real runs in small, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from callbacks.sweep import Sweep, plan
from tests.chain import ROOT, Outcome, Small, call, files, reached

VANILLA = ROOT / "configs/miniature_vanilla.yaml"


def words(small: Small, runs: Path, *further: str) -> list[str]:
    return ["sweep", f"--config={VANILLA}", f"--runs={runs}", *small(VANILLA), *further]


# Planning


def test_every_combination_has_a_folder(tmp_path: Path) -> None:
    configs = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for config in configs:
        config.touch()
    variations = [["model.lr", "1e-3", "1e-4"], ["data.test", "all"]]
    jobs = plan(configs, [1, 2], variations, Path("runs"), ["--trainer.max_epochs", "3"])
    assert [job.name for job in jobs] == [
        f"{config}/model.lr={lr}/data.test=all/seed-{seed}"
        for config in ("a", "b") for lr in ("1e-3", "1e-4") for seed in (1, 2)
    ]  # fmt: skip
    assert all(job.folder == Path("runs") / job.name for job in jobs)
    own = list(jobs[0].words)
    assert own[0] == f"--config={configs[0]}"
    assert own[-6:] == [
        "--trainer.max_epochs", "3", "--model.lr=1e-3", "--data.test=all", "--seed_everything=1",
        f"--run_dir=runs/{jobs[0].name}",
    ]  # fmt: skip


def test_settings_that_no_folder_can_be_called_after_keep_theirs_apart(tmp_path: Path) -> None:
    variations = [["data.file", "a/labels.csv", "a_labels.csv", "x" * 300, "x" * 301]]
    (tmp_path / "a.yaml").touch()
    jobs = plan([tmp_path / "a.yaml"], [1], variations, Path("runs"), [])
    names = [job.name.split("/")[1] for job in jobs]
    assert len(set(names)) == 4
    assert names[0].startswith("data.file=a_labels.csv-")
    assert names[1] == "data.file=a_labels.csv"
    assert max(map(len, names)) < 128


def test_configurations_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    configs = [tmp_path / "configs" / method / "bar.yaml" for method in ("lff", "jtt")]
    for config in configs:
        config.parent.mkdir(parents=True)
        config.touch()
    assert [job.name for job in plan(configs, [1], [], Path("runs"), [])] == ["lff/bar/seed-1", "jtt/bar/seed-1"]


def test_runs_share_the_cores_and_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sweep = Sweep([], at_once=3, gpus=["4", "6"])
    assert [sweep.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "6", "4"]
    assert sweep.environment(0)["OMP_NUM_THREADS"] == str(max(1, cores // 3))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert Sweep([], at_once=3).environment(0)["OMP_NUM_THREADS"] == "7"
    assert [Sweep([], gpus=gpus).at_once for gpus in ([], ["4", "6"])] == [1, 2]


@pytest.mark.parametrize(
    ("further", "parts"),
    [
        (["--config=no.yaml"], ["--config", "no.yaml", "configs/miniature.yaml"]),
        (["--seeds", "1", "2", "1"], ["--seeds", "twice"]),
        (["--seeds", "one"], ["--seeds", "one"]),
        (["--seeds", "-1"], ["--seeds", "-1"]),
        (["--jobs", "0"], ["--jobs", "at least 1"]),
        (["--vary", "model.lr"], ["--vary model.lr", "at least one value"]),
        (["--vary", "model.lr", "1", "--vary", "model.lr", "2"], ["--vary model.lr", "once"]),
        (["--vary", "seed_everything", "1", "2"], ["--seed_everything", "--seeds"]),
        (["--run_dir", "x"], ["--run_dir", "--runs"]),
        (["--seed", "1"], ["--seed:", "--seeds in full"]),
        (["--seed_ev=1"], ["--seed_ev:", "use --config, --seeds"]),
        (["--run", "x"], ["--run:", "--runs in full"]),
        (["--vary", "conf", "x"], ["--conf:", "--config in full"]),
        (["stray", "--model.lr", "1"], ["stray", "--KEY VALUE"]),
    ],
    ids=" ".join,
)
def test_mistakes_are_told_in_one_line(further: list[str], parts: list[str], tmp_path: Path) -> None:
    outcome = call("sweep", f"--config={VANILLA}", f"--runs={tmp_path / 'runs'}", *further)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("error: ")
    assert all(part in outcome.err for part in parts), outcome.err
    assert not (tmp_path / "runs").exists()


# Running


SEEDS = ["--seeds", "3", "4", "5", "--vary", "model.lr", "1e-3"]


@pytest.fixture(scope="module")
def swept(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The runs of a sweep over three seeds, two at once, of which the last meets a folder with another run."""
    runs = tmp_path_factory.mktemp("runs")
    taken = runs / "miniature_vanilla/model.lr=1e-3/seed-5"
    (taken / "stages/01-model/checkpoints").mkdir(parents=True)
    (taken / "stages/01-model/checkpoints/last.ckpt").touch()
    (taken / "config.yaml").write_text("seed_everything: 5\n")
    return taken.parent, call(*words(small, runs, *SEEDS, "--jobs", "2"))


def test_a_sweep_goes_on_after_a_failure(swept: tuple[Path, Outcome]) -> None:
    folder, outcome = swept
    assert outcome.status == 1, outcome.err
    accuracies = []
    for seed in (3, 4):
        results = json.loads((folder / f"seed-{seed}/results.json").read_text())
        assert results["seed"] == seed
        accuracies.append(100 * results["test"]["model"]["accuracy"])
        assert "test set, %" in (folder / f"seed-{seed}/fit.log").read_text()
    assert accuracies[0] != accuracies[1]
    mean, deviation = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert outcome.out.splitlines()[1].split()[:2] == ["miniature_vanilla/model.lr=1e-3", "model"]
    assert f" 2  {mean:.1f} ± {deviation:.1f}" in outcome.out
    assert "1 of 3 runs failed" in outcome.err
    line = outcome.err.splitlines()[-1]
    assert "model.lr=1e-3/seed-5: error: run_dir: " in line
    assert line.endswith(f"({folder / 'seed-5/fit.log'})")


def test_finished_runs_are_left_alone_and_failed_ones_tried_again(swept: tuple[Path, Outcome], small: Small) -> None:
    folder, outcome = swept
    before = {seed: files(folder / f"seed-{seed}") for seed in (3, 4)}
    again = call(*words(small, folder.parents[1], *SEEDS))
    assert again.status == 1
    assert "2 of 3 runs are finished already" in again.err
    assert {seed: files(folder / f"seed-{seed}") for seed in (3, 4)} == before
    assert (folder / "seed-5/fit.log").read_text().count("$ ") == 2
    assert again.out == outcome.out


def test_other_settings_do_not_pass_for_finished(swept: tuple[Path, Outcome], small: Small) -> None:
    runs = swept[0].parents[1]
    one = ["--seeds", "3", "--vary", "model.lr", "1e-3"]
    outcome = call(*words(small, runs, *one, "--model.small_images", "true"))
    assert outcome.status == 1
    assert "model.init_args.small_images: False -> True" in outcome.err
    assert outcome.out == ""
    # what only concerns how it is carried out is accepted
    assert call(*words(small, runs, *one, "--trainer.log_every_n_steps", "1")).status == 0


def test_settings_that_fit_refuses_are_tried_with_one_seed(small: Small, tmp_path: Path) -> None:
    outcome = call(*words(small, tmp_path, "--seeds", "1", "2", "3", "--data.rot", "x"))
    assert outcome.status == 2
    assert "left out, the same settings: miniature_vanilla/seed-2, miniature_vanilla/seed-3" in outcome.err
    assert "rot" in outcome.err.splitlines()[-1]
    assert [folder.name for folder in (tmp_path / "miniature_vanilla").iterdir()] == ["seed-1"]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_sweep_leaves_no_process_and_goes_on(
    number: signal.Signals, status: int, small: Small, tmp_path: Path
) -> None:
    command = words(small, tmp_path / "runs", "--seeds", "1", "--trainer.max_epochs", "3")
    slow = {"DIFFUBIAS_FAULT": "", **os.environ}
    broken = start([*command, "--trainer.callbacks=tests.stages.Waiting"], slow)
    run_dir = tmp_path / "runs/miniature_vanilla/seed-1"
    wait_for(run_dir / "stages/01-model/checkpoints/last.ckpt")
    runs = children(broken.pid)
    assert len(runs) == 1
    broken.send_signal(number)
    outcome = end(broken)
    assert outcome.status == status, outcome.err
    assert "stopped; the same command goes on" in outcome.err
    assert not any(map(is_alive, runs))
    assert not (run_dir / "results.json").exists()
    if number == signal.SIGTERM:
        return
    finished = end(start([*command, "--trainer.callbacks=tests.stages.Waiting"], {**slow, "DIFFUBIAS_HURRY": "1"}))
    assert finished.status == 0, finished.err
    whole = call("fit", f"--config={VANILLA}", *small(VANILLA), "--trainer.max_epochs=3", f"--run_dir={tmp_path / 'x'}")
    assert whole.status == 0, whole.err
    assert reached(run_dir) == reached(tmp_path / "x")


def start(arguments: list[str], env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # tests that a shell has put into the background ignore Ctrl-C, and so would what they start
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process: "subprocess.Popen[str]") -> Outcome:
    out, err = process.communicate(timeout=300)
    return Outcome(process.returncode, out, err)


def wait_for(path: Path, timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
