"""Every configuration under configs/ runs, in small, through all four commands."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.chain import ROOT, Small, call, small_backbones

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
NO_BIAS = {"BAR", "Folder", "ImageNet9", "Table"}
CLASSES = {
    "BAR": 6, "BFFHQ": 2, "CMNIST": 10, "CelebA": 2, "CorruptedCIFAR10": 10, "DogsAndCats": 2, "Folder": 2,
    "Miniature": 8, "SpuCoAnimals": 4, "UTKFace": 2, "Waterbirds": 2,
}  # fmt: skip
# what modules leave that classify nothing
LEFT = {"CaptionModel": "model.safetensors", "TextToImage": "model_index.json"}
# bias attributes that prompts go through for each class
BIASES = {"CelebA": 2, "Miniature": 8, "SpuCoAnimals": 2, "UTKFace": 2}


def representatives() -> set[Path]:
    """The first configuration of every data set and the first of every module, of a stage or of the last one."""
    first: dict[str, Path] = {}
    for config in CONFIGS:
        settings = yaml.safe_load(config.read_text())
        for key in ("data", "model", "biased", "diffusion", "gan", "adapted", "pretrain"):
            if key in settings:
                first.setdefault(settings[key]["class_path"], config)
    return set(first.values())


REPRESENTATIVES = representatives()


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 60


# parsing is what takes the time here, and it is the same for all of a family
@pytest.mark.parametrize("config", CONFIGS[::16], ids=lambda path: path.stem)
def test_printed_config_is_the_same_config(config: Path, tmp_path: Path) -> None:
    first = call("fit", f"--config={config}", "--print_config")
    assert first.status == 0, first.err
    printed = tmp_path / config.name
    printed.write_text(first.out)
    again = call("fit", f"--config={printed}", "--print_config")
    assert again.out == first.out
    settings, written = yaml.safe_load(first.out), yaml.safe_load(config.read_text())
    assert written["trainer"].items() <= settings["trainer"].items()
    assert written["data"]["init_args"].items() <= settings["data"]["init_args"].items()


OTHERS = [config for config in CONFIGS if config not in REPRESENTATIVES]


@pytest.mark.parametrize("config", OTHERS, ids=lambda path: path.stem)
def test_every_other_config_is_read(config: Path) -> None:
    """What the quick tests do not run, they read; a misspelt key or a wrong value does not get past that."""
    outcome = call("fit", f"--config={config}", "--print_config")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize(
    "config",
    [*sorted(REPRESENTATIVES), *(pytest.param(config, marks=pytest.mark.slow) for config in OTHERS)],
    ids=lambda path: path.stem,
)
def test_all_commands(config: Path, small: Small, tmp_path: Path) -> None:
    """Fit every configuration; the report and the other commands are tried with one of each data set and module."""
    is_representative = config in REPRESENTATIVES
    words = [f"--config={config}", *small(config), f"--run_dir={tmp_path}", "--trainer.limit_train_batches=4"]
    words.append(f"--report.enabled={str(is_representative).lower()}")
    words += [] if config.stem == "bar" else small_backbones(config)  # one with the ResNet that most have
    fitted = call("fit", *words)
    assert fitted.status == 0, fitted.err
    assert (tmp_path / "report.html").exists() == is_representative
    if is_representative:
        assert "could not be shown" not in (tmp_path / "report.html").read_text()
    settings = yaml.safe_load(config.read_text())
    stages: list[str] = []
    for name, stage in (settings.get("stages") or {"model": {}}).items():
        if stage.get("module") not in ("diffusion", "gan", "adapted"):  # they classify nothing
            stages += [f"{name}-{number}" for number in (1, 2, 3)] if "repeat" in stage else [name]
    module = settings["model"]["class_path"].removeprefix("lightning_modules.")
    if module in LEFT:
        assert (tmp_path / "stages/01-model/model" / LEFT[module]).is_file()
        for command in ("validate", "test", "predict"):
            outcome = call(command, *words)
            assert outcome.status == 2
            assert f"{module} classifies nothing" in outcome.err
        return
    results = json.loads((tmp_path / "results.json").read_text())["test"]
    assert list(results) == stages
    data = settings["data"]["class_path"].removeprefix("datamodules.")
    has_bias = data not in NO_BIAS
    for name, row in results.items():
        assert name in fitted.out
        assert {"accuracy", "worst_class"} <= set(row)
        assert ({"aligned", "worst_group"} <= set(row)) == has_bias
        assert all(-1 <= value <= 1 for value in row.values())  # the gaps of UrbanCars are differences
    assert ("no bias labels" in fitted.out) != has_bias

    if is_representative:
        evaluates_and_predicts(words, tmp_path, list(results.values())[-1]["accuracy"])
    draws = "synthesize" in settings and settings["synthesize"].get("generator", {}) is not None
    assert (tmp_path / "synthetic" / "strip.png").exists() == draws
    drawn = len(list((tmp_path / "synthetic").glob("images/*.png")))
    biases = BIASES[data] if "{bias}" in config.read_text() else 1
    assert drawn == (3 * CLASSES[data] * biases if draws else 0)


def evaluates_and_predicts(words: list[str], run_dir: Path, reached: float) -> None:
    """Try the commands that need a finished run; they must agree with the accuracy that it has reached."""
    for command in ("validate", "test"):
        outcome = call(command, *words)
        assert outcome.status == 0, outcome.err
        accuracy = re.findall(rf"{command.removesuffix('idate')}/accuracy\W+([\d.]+)", outcome.out)
        assert len(accuracy) == 1
    assert float(accuracy[0]) == pytest.approx(reached)

    assert call("predict", *words).status == 0
    with (run_dir / "predict" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = len(rows)
    assert images >= 4
    assert sorted(int(row["index"]) for row in rows) == list(range(images))
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / images == pytest.approx(reached)


@pytest.mark.skipif(
    not (ROOT / "assets/miniature/captioner").is_dir(), reason="the embedded models are not built (assets/)"
)
def test_the_embedded_models_write_and_draw(tmp_path: Path) -> None:
    """The demo with its own models, in small: captions name a shape, images are made from them."""
    outcome = call(
        "fit", "--config=configs/miniature.yaml", "--data.train_size=160", "--data.test_size=64", "--data.val_size=32",
        "--trainer.max_epochs=1", "--stages.biased.max_epochs=1", "--synthesize.top_k=1", "--synthesize.images=2",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--run_dir={tmp_path}",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "synthetic" / "metadata.jsonl").read_text().splitlines()]
    assert len(records) == 16
    named = sum(record["class_name"] in record["caption"] for record in records)
    assert named >= 12
