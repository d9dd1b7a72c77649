"""The chain of Diffusing DeBias: killed and finished, and in two processes."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.chain import ROOT, TWO, Small, contents, files, reached, run

# Where the process kills itself, and what the next attempt must not touch.
KILLS = {
    "kill diffusion-fit 14": ["config.yaml"],
    "kill draw 2": ["stages/01-diffusion/fit_done", "stages/01-diffusion/model/", "synthetic/images/000003.png"],
    "kill amplifier-fit 2": ["stages/01-diffusion/", "synthetic/"],
    "kill debiased-fit 7": ["stages/01-diffusion/", "stages/02-amplifier/", "synthetic/"],
}


@pytest.fixture(name="words", scope="module")
def chain_words(small: Small) -> list[str]:
    return [
        "fit",
        "--config=configs/miniature_ddb_1.yaml",
        *small(ROOT / "configs" / "miniature_ddb_1.yaml"),
        "--trainer.max_epochs=2",
        "--stages.diffusion.max_epochs=3",
        "--stages.diffusion.save_every=2",
        "--stages.diffusion.trainer={check_val_every_n_epoch: 1}",
        "--trainer.callbacks=tests.faults.FaultyCallback",
        "--synthesize.generator=tests.faults.FaultyClassGenerator",
        "--synthesize.generator.batch_size=4",
    ]


@pytest.fixture(name="unbroken", scope="module")
def unbroken_run(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddb")
    outcome = run([*words, f"--run_dir={folder / 'run'}"], folder / "output")
    assert outcome.status == 0, outcome.err
    return folder / "run"


def weights(run_dir: Path, stage: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run_dir / "stages" / stage / "checkpoints/last.ckpt", weights_only=True)
    return dict(state["state_dict"])


def test_every_stage_leaves_what_it_should(unbroken: Path) -> None:
    stage = unbroken / "stages" / "01-diffusion"
    assert not (stage / "checkpoints" / "best.ckpt").exists()
    assert not (stage / "test.json").exists()
    assert (stage / "done").exists()
    assert sorted(path.name for path in (stage / "samples").iterdir()) == [
        f"epoch-000{number}.png" for number in range(3)
    ]
    assert {path.name for path in (stage / "model").iterdir()} == {"README.md", "classes.json", "scheduler", "unet"}
    records = [json.loads(line) for line in (unbroken / "synthetic" / "metadata.jsonl").read_text().splitlines()]
    assert [record["label"] for record in records] == [label for label in range(8) for _ in range(3)]
    assert {record["generator"] for record in records} == {"FaultyClassGenerator"}
    results = json.loads((unbroken / "results.json").read_text())
    assert list(results["test"]) == ["amplifier", "debiased"]


@pytest.mark.slow
def test_killed_everywhere_equals_unbroken(words: list[str], unbroken: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [*words, f"--run_dir={run_dir}"]
    kept: dict[str, tuple[int, bytes]] = {}
    for fault, untouched in KILLS.items():
        outcome = run(command, tmp_path / "output", fault)
        assert outcome.status == -signal.SIGKILL, (fault, outcome.err)
        after = files(run_dir)
        assert {name: file for name, file in after.items() if name in kept} == kept, fault
        kept = {name: file for name, file in after.items() if name.startswith(tuple(untouched))}
        assert kept, fault
    outcome = run(command, tmp_path / "output")
    assert outcome.status == 0, outcome.err
    ours, theirs = contents(run_dir), contents(unbroken)
    same = [name for name in theirs if name.startswith(("synthetic/", "stages/01-diffusion/model/"))]
    assert len([name for name in same if name.endswith(".png")]) == 25
    assert {name for name in ours if name.startswith("synthetic/")} == {n for n in same if n.startswith("synthetic/")}
    assert all(ours[name] == theirs[name] for name in same)
    assert reached(run_dir) == reached(unbroken)
    for stage in ("01-diffusion", "02-amplifier", "03-debiased"):
        first, second = weights(run_dir, stage), weights(unbroken, stage)
        assert all(torch.equal(value, second[name]) for name, value in first.items()), stage


@pytest.mark.slow
def test_two_processes_train_one_model_and_draw_what_one_would(words: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    outcome = run([*words, *TWO, f"--run_dir={run_dir}"], tmp_path / "output")
    assert outcome.status == 0, outcome.err
    folder = run_dir / "stages" / "01-diffusion" / "model"
    drawn = [f"--synthesize.generator.folder={folder}", "--stages.diffusion.max_epochs=1"]
    alone = run([*words, *drawn, f"--run_dir={tmp_path / 'one'}"], tmp_path / "output")
    assert alone.status == 0, alone.err
    for number in range(24):
        name = f"synthetic/images/{number:06d}.png"
        first, second = (np.asarray(Image.open(tmp_path / own / name)).astype(int) for own in ("one", "two"))
        assert np.abs(first - second).max() <= 1
