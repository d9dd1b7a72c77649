"""The chains of AmpliBias and A²: killed and finished, and in two processes."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from callbacks.synthesis import GANGenerator, Translator
from callbacks.synthesis.plan import Prompt
from datamodules import Miniature
from lightning_modules import FastGAN
from tests.chain import ROOT, TWO, Outcome, Small, call, contents, files, reached, run

# Where the process kills itself, and what the next attempt must not touch.
KILLS = {
    "kill gan-fit 7": ["config.yaml", "synthetic/selection.json"],
    "kill adapted-fit 2": ["stages/02-gan/", "synthetic/selection.json"],
    "kill draw 2": ["stages/03-adapted/fit_done", "stages/03-adapted/model/", "synthetic/images/000003.png"],
}
PARTS = {"amplibias": "FaultyGANGenerator", "a2": "FaultyTranslator"}


def make_words(small: Small, name: str) -> list[str]:
    config = ROOT / "configs" / f"miniature_{name}.yaml"
    return [
        "fit", f"--config={config}", *small(config), "--trainer.callbacks=tests.faults.FaultyCallback",
        f"--synthesize.generator=tests.faults.{PARTS[name]}", "--synthesize.generator.batch_size=4",
    ]  # fmt: skip


def weights(run_dir: Path, stage: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run_dir / "stages" / stage / "checkpoints/last.ckpt", weights_only=True)
    return dict(state["state_dict"])


@pytest.mark.slow
def test_a2_killed_everywhere_equals_unbroken(small: Small, tmp_path: Path) -> None:
    words = [*make_words(small, "a2"), "--stages.gan.max_epochs=2", "--stages.adapted.max_epochs=2"]
    words += ["--synthesize.generator.steps=1"]
    whole = run([*words, f"--run_dir={tmp_path / 'whole'}"], tmp_path / "output")
    assert whole.status == 0, whole.err
    run_dir = tmp_path / "run"
    kept: dict[str, tuple[int, bytes]] = {}
    for fault, untouched in KILLS.items():
        outcome = run([*words, f"--run_dir={run_dir}"], tmp_path / "output", fault)
        assert outcome.status == -signal.SIGKILL, (fault, outcome.err)
        after = files(run_dir)
        assert {name: file for name, file in after.items() if name in kept} == kept, fault
        kept = {name: file for name, file in after.items() if name.startswith(tuple(untouched))}
        assert kept, fault
    outcome = run([*words, f"--run_dir={run_dir}"], tmp_path / "output")
    assert outcome.status == 0, outcome.err
    ours, theirs = contents(run_dir), contents(tmp_path / "whole")
    same = [name for name in theirs if name.startswith(("synthetic/", "stages/03-adapted/model/"))]
    assert len([name for name in same if name.endswith(".png")]) == 25
    assert [name for name in same if ours[name] != theirs[name]] == []
    assert reached(run_dir) == reached(tmp_path / "whole")
    for stage in ("02-gan", "03-adapted", "04-debiased"):
        first, second = weights(run_dir, stage), weights(tmp_path / "whole", stage)
        assert all(torch.equal(value, second[name]) for name, value in first.items()), stage
    records = [json.loads(line) for line in ours["synthetic/metadata.jsonl"].splitlines()]
    mined = {item["index"] for item in json.loads(ours["synthetic/selection.json"])["items"]}
    assert mined.isdisjoint(record["source_index"] for record in records)
    assert len({record["source_index"] for record in records}) == 24
    assert {record["generator"] for record in records} == {"FaultyTranslator"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), [("amplibias", "02-gan"), ("a2", "03-adapted")])
def test_two_processes_draw_what_one_would(small: Small, tmp_path: Path, name: str, stage: str) -> None:
    words = [*make_words(small, name), *(["--synthesize.generator.steps=2"] if name == "a2" else [])]
    outcome = run([*words, *TWO, f"--run_dir={tmp_path / 'two'}"], tmp_path / "output")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "two" / "stages" / stage / "model"
    written = {"config.json", "model.safetensors"}
    written |= {f"source-{own}" for own in written} if name == "a2" else set()
    assert {path.name for path in folder.iterdir()} == {"README.md", "classes.json", *written}
    assert not (tmp_path / "two" / "synthetic" / "captions.json").exists()
    arguments = yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())["data"]["init_args"]
    data = Miniature(**arguments)
    data.setup("fit")
    generator: Any = GANGenerator(folder) if name == "amplibias" else Translator(folder, steps=2)
    generator.learn_from(FastGAN(), data, tmp_path / "unused")
    generator.load(torch.device("cpu"))
    synthetic = tmp_path / "two" / "synthetic"
    records = [json.loads(line) for line in (synthetic / "metadata.jsonl").read_text().splitlines()]
    assert len(records) == 24
    prompts = [Prompt(own["label"], own["source_index"], own["caption"]) for own in records]
    alone = generator.sample(prompts, [own["seed"] for own in records])
    for own, sample in zip(records, alone, strict=True):
        drawn = np.asarray(Image.open(synthetic / own["file_name"])).astype(int)
        assert np.abs(drawn - sample.image).max() <= 1


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("amplibias", ["--gan.size=28"], "gan.size=28 is no power of two"),
        ("amplibias", ["--stages.gan.data=synthetic"], "data must be real or mined"),
        ("amplibias", ["--synthesize.generator=callbacks.synthesis.Translator"], "let it fit AdaptedGAN"),
        ("a2", ["--stages.adapted.uses={}"], "uses must hand over a source"),
        ("a2", ["--synthesize.generator.steps=0"], "steps must be at least 1"),
    ],
)
def test_mistakes_are_one_line_before_the_first_fit(
    small: Small, tmp_path: Path, name: str, words: list[str], message: str
) -> None:
    config = ROOT / "configs" / f"miniature_{name}.yaml"
    outcome: Outcome = call("fit", f"--config={config}", *small(config), *words, f"--run_dir={tmp_path / 'run'}")
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert message in outcome.errors[0]
    assert not (tmp_path / "run").exists()


def test_a2_is_rehearsed_with_the_size_of_the_data(small: Small, tmp_path: Path) -> None:
    words = [word for word in make_words(small, "a2") if not word.startswith(("--gan.size", "--adapted.size"))]
    assert len(words) < len(make_words(small, "a2"))
    outcome = call(*words, "--data.image_size=16", "--trainer.fast_dev_run=1", f"--run_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
