"""What W&B and TensorBoard hold after a chain, read back from what they have written."""

import csv
import io
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from callbacks.emissions_log import read_records
from callbacks.strip import CELL, GAP, fit_cell
from callbacks.synthesis.part import digest
from datamodules import Miniature
from tests.chain import ROOT, Small, call, run
from tests.wandb_runs import artifacts, config, history, records

VANILLA = ROOT / "configs/miniature_vanilla.yaml"
HOME = ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")


def data_of(run_dir: Path) -> Miniature:
    """The data of the chain of the fixture ``fit``."""
    arguments = yaml.safe_load((run_dir / "config.yaml").read_text())["data"]["init_args"]
    data = Miniature(**arguments)
    data.setup("fit")
    return data


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def costs_of(run_dir: Path, stage: str) -> dict[str, float]:
    """What the loggers should be told: one record a phase in an unbroken run."""
    values: dict[str, float] = {}
    for record in read_records(run_dir):
        if record["stage"] == stage:
            own = {"kwh": record["kwh"], "grams": record["grams"], "minutes": record["seconds"] / 60}
            values |= {f"emissions/{record['phase']}_{name}": value for name, value in own.items()}
    return values


def pixels(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(image.convert("RGB"))


def in_root() -> set[Path]:
    """What is in the repository, but for what other processes of the tests leave on the coverage."""
    return {path for path in ROOT.iterdir() if not path.name.startswith(".coverage")}


@pytest.fixture(scope="module")
def wandb_run(fit: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folder of a chain with W&B offline, and the home folder that it had."""
    pytest.importorskip("wandb")
    run_dir = tmp_path_factory.mktemp("wandb") / "my run"
    home = tmp_path_factory.mktemp("home")
    before = {name: os.environ.pop(name, None) for name in HOME}
    os.environ["HOME"] = str(home)
    here = in_root()
    try:
        words = [*fit, f"--run_dir={run_dir}", "--trainer.logger=WandbLogger", "--trainer.logger.offline=true"]
        outcome = run(words, run_dir.with_name("output"))
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
    assert outcome.status == 0, outcome.err
    assert "wandb run already in progress" not in outcome.err
    assert in_root() == here
    return run_dir, home


def offline(run_dir: Path) -> Path:
    """The one file of the one W&B run, which all stages share."""
    (file,) = run_dir.rglob("*.wandb")
    return file


def test_a_run_folder_is_one_wandb_run(wandb_run: tuple[Path, Path]) -> None:
    run_dir, home = wandb_run
    file = offline(run_dir)
    assert file.relative_to(run_dir).parts[0] == "wandb"
    found = next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    place = digest(str(run_dir.resolve()))[:8]  # runs of a sweep have folders of one name in different places
    assert (found.run_id, found.display_name, found.project) == (f"my_run-{place}", "my_run", "diffubias")
    assert not [path for path in home.rglob("*") if path.is_file() and "wandb" in path.parts]


def test_wandb_shows_the_synthesis(wandb_run: tuple[Path, Path]) -> None:
    run_dir, _ = wandb_run
    synthetic = run_dir / "synthetic"
    file = offline(run_dir)
    kept = artifacts(file)
    table = json.loads(kept["run_table", "synthesis/table.table.json"].read_text())
    assert table["columns"] == [
        "mined", "class", "loss", "captions", "dropped, no frequent word", "kept", "rejected", "drawn",
    ]  # fmt: skip
    data, rows = data_of(run_dir), table["data"]
    selection = json.loads((synthetic / "selection.json").read_text())["items"]
    captions = {own["index"]: own for own in json.loads((synthetic / "captions.json").read_text())["items"]}
    flags = iter(json.loads((synthetic / "filter.json").read_text())["kept"])
    wanted = {index: {text: next(flags) for text in own["captions"]} for index, own in captions.items()}
    manifest = defaultdict(list)
    for record in read_lines(synthetic / "metadata.jsonl"):
        manifest[record["source_index"]].append(synthetic / record["file_name"])
    assert len(rows) == len(selection) == 16
    by_loss = {item["loss"]: item for item in selection}
    for mined, name, loss, texts, dropped, count, _, drawn in rows:
        item = by_loss[loss]
        index = item["index"]
        assert name == data.class_names[item["label"]]
        with Image.open(kept["run_table", mined["path"]]) as image:
            assert np.array_equal(pixels(image), pixels(data.source_image(index)))
        for text, flag in wanted[index].items():
            assert text in (texts if flag else dropped).split("\n")
        assert count == len(manifest[index])
        with Image.open(kept["run_table", drawn["path"]]) as image:
            for place, own in enumerate(manifest[index][:5]):
                left = place * (CELL + GAP)
                cell = image.crop((left, 0, left + CELL, CELL))
                assert np.array_equal(pixels(cell), pixels(fit_cell(Image.open(own).convert("RGB"))))
    verdicts = json.loads(kept["run_table", "synthesis/verdicts.table.json"].read_text())
    assert verdicts["data"] == [["keep", 24]]
    assert len(history(file)["synthesis/table/nrows"]) == 1
    # the manifest is what it is on the disk
    assert kept["dataset", "metadata.jsonl"].samefile(synthetic / "metadata.jsonl")


def test_wandb_shows_groups_settings_and_costs(wandb_run: tuple[Path, Path]) -> None:
    run_dir, _ = wandb_run
    file = offline(run_dir)
    table = json.loads(artifacts(file)["run_table", "groups/table.table.json"].read_text())
    assert table["columns"] == ["stage", "accuracy", "aligned", "conflict", "worst_group"]
    results = json.loads((run_dir / "results.json").read_text())["test"]
    for (stage, *values), name in zip(table["data"], ("biased", "debiased"), strict=True):
        assert stage == name
        assert values == pytest.approx([results[name][metric] for metric in table["columns"][1:]])
    logged = history(file)
    pictures = logged["groups/bars/path"]  # before and after, each with its step in its name
    assert len(pictures) == len(set(pictures)) == 2
    for name, width, height in zip(pictures, logged["groups/bars/width"], logged["groups/bars/height"], strict=True):
        with Image.open(file.parent / "files" / name) as image:
            assert image.size == (width, height)
    assert config(file)["configuration"]["synthesize"]["top_k"] == 2
    assert {stage: "q" in config(file)[stage] for stage in ("biased", "debiased")} == {
        "biased": True,
        "debiased": False,
    }
    assert "lr" not in config(file)
    curves = ("val/accuracy", "train/loss", "test/conflict")
    for stage in ("biased", "debiased"):
        costs = {f"{stage}-{key}": [pytest.approx(own)] for key, own in costs_of(run_dir, stage).items()}
        assert {key: logged[key] for key in costs} == costs
        # one W&B run, in which the stage stands before the name of every curve
        assert {f"{stage}-{curve}" for curve in curves} <= logged.keys()
        assert logged[f"{stage}-test/conflict"] == [pytest.approx(results[stage]["conflict"])]
    assert not [key for key in logged if key.startswith(("val/", "train/", "test/", "emissions/"))]


@pytest.fixture(scope="module")
def tensorboard_run(fit: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorboard")
    run_dir = tmp_path_factory.mktemp("tensorboard") / "run"
    outcome = call(*fit, f"--run_dir={run_dir}", "--trainer.logger=TensorBoard", "--dashboard.rows=12")
    assert outcome.status == 0, outcome.err
    return run_dir


def events(run_dir: Path, stage: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "stages" / stage / "tensorboard"), {"images": 0, "tensors": 0})
    found.Reload()
    return found


def text_of(found: Any, tag: str) -> str:
    (event,) = found.Tensors(f"{tag}/text_summary")
    content: bytes = event.tensor_proto.string_val[0]
    return content.decode()


def image_of(found: Any, tag: str) -> Image.Image:
    (event,) = found.Images(tag)
    return Image.open(io.BytesIO(event.encoded_image_string))


def test_tensorboard_shows_the_synthesis(tensorboard_run: Path) -> None:
    found, data = events(tensorboard_run, "01-biased"), data_of(tensorboard_run)
    head, _, *rows = text_of(found, "synthesis/table").splitlines()
    assert head == "|row|class|loss|captions|dropped, no frequent word|kept|rejected|"
    assert len(rows) == 12
    losses = [float(row.split("|")[3]) for row in rows]
    selection = json.loads((tensorboard_run / "synthetic/selection.json").read_text())["items"]
    index = {item["loss"]: item["index"] for item in selection}
    # a class each in the first eight rows; ten rows a picture
    assert len({row.split("|")[2] for row in rows[:8]}) == 8
    for page, start in (("synthesis/rows_000", 0), ("synthesis/rows_010", 10)):
        image = image_of(found, page)
        assert image.height == (CELL + GAP) * len(rows[start : start + 10])
        for place, loss in enumerate(losses[start : start + 10]):
            cell = image.crop((0, place * (CELL + GAP), CELL, place * (CELL + GAP) + CELL))
            assert np.array_equal(pixels(cell), pixels(fit_cell(data.source_image(index[loss]))))
    assert text_of(found, "synthesis/verdicts").splitlines()[2:] == ["|keep|24|"]


def test_tensorboard_shows_groups_settings_and_costs(tensorboard_run: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = events(tensorboard_run, "02-debiased")
    assert image_of(found, "groups/bars").width > 300
    results = json.loads((tensorboard_run / "results.json").read_text())["test"]["debiased"]
    shown = HParamsPluginData.FromString(
        found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info.hparams
    assert shown["synthesize.top_k"].number_value == 2
    assert "run_dir" not in shown
    for scalar in ("hparams/conflict", "test/conflict"):
        assert found.Scalars(scalar)[-1].value == pytest.approx(results["conflict"])
    assert "top_k: 2" in text_of(found, "configuration")
    for stage in ("01-biased", "02-debiased"):
        own = events(tensorboard_run, stage)
        for key, value in costs_of(tensorboard_run, stage.partition("-")[2]).items():
            assert own.Scalars(key)[-1].value == pytest.approx(value, rel=1e-5)


def test_a_folder_of_the_user_keeps_runs_and_stages_apart(small: Small, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = [f"--config={VANILLA}", *small(VANILLA), f"--run_dir={tmp_path / 'my-run'}"]
    words += ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'events'}"]
    assert call("fit", *words).status == 0
    assert list((tmp_path / "events/my-run/model").glob("events.*"))


def test_csv_has_the_costs_and_nothing_else_that_is_new(reference: Path) -> None:
    for stage in ("01-biased", "02-debiased"):
        (file,) = (reference / "stages" / stage / "logs").rglob("*.csv")
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
        costs = costs_of(reference, stage.partition("-")[2])
        (row,) = (row for row in rows if row["emissions/fit_kwh"])
        assert {key: float(row[key]) for key in costs} == {key: pytest.approx(own) for key, own in costs.items()}
        assert {key.partition("/")[0] for key in rows[0] if "/" in key} <= {
            "train", "val", "test", "synthesis", "emissions",
        }  # fmt: skip


def test_prompts_without_mining_are_shown_by_group(small: Small, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path = ROOT / "configs/miniature_usb.yaml"
    words = [f"--config={path}", *small(path), f"--run_dir={tmp_path}", "--trainer.logger=TensorBoard"]
    outcome = call("fit", *words)
    assert outcome.status == 0, outcome.err
    (stage,) = (own.name for own in (tmp_path / "stages").iterdir() if (own / "tensorboard").is_dir())
    rows = text_of(events(tmp_path, stage), "synthesis/table").splitlines()[2:]
    assert len(rows) == 64
    assert all(row.split("|")[3] == "" and row.split("|")[6] == "3" for row in rows)
