import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks import SynthesizeCallback
from callbacks.chain import BEST
from callbacks.synthesis import Captioner, DiffusersGenerator, Gate, TextFilter
from callbacks.synthesis.files import read_json, read_lines
from callbacks.synthesis.losses import read_losses
from callbacks.synthesis.miner import mine_losses
from callbacks.synthesis.templates import Templates
from callbacks.synthesis_check import check_synthesis
from lightning_modules import Vanilla
from lightning_modules.errors import ConfigError
from tests.callbacks.test_drawing import tree
from tests.callbacks.toy import EchoCaptioner, Painter, ToyClassifier, ToyData, fit, make_callback
from tests.ddp import run_ddp


def run(callback: SynthesizeCallback, module: L.LightningModule | None = None) -> None:
    """Run the callback on a fixed classifier, with a Trainer that has not trained it."""
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.datamodule = ToyData()  # type: ignore[attr-defined]
    callback.synthesize(trainer, module or ToyClassifier())


def run_on_rank(rank: int, size: int, models: tuple[Path, Path], folder: Path, fail_on: int | None = None) -> str:
    options = {"captioner": EchoCaptioner(fail=rank == fail_on)} if fail_on is not None else {}
    try:
        run(make_callback(*models, folder, **options))
    except RuntimeError as error:
        return str(error)
    return "done"


@pytest.fixture(name="models", scope="module")
def both_models(captioning_model: Path, stable_diffusion: Path) -> tuple[Path, Path]:
    return captioning_model, stable_diffusion


def test_a_fit_ends_with_a_set_of_the_other_bias(
    models: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = CSVLogger(str(tmp_path / "logs"))
    callback = make_callback(*models, tmp_path / "synthetic")
    with caplog.at_level(logging.INFO, "diffubias"):
        trainer = fit(callback, tmp_path, logger=logger)
    assert next(trainer.lightning_module.parameters()).device.type == "cpu"
    folder = tmp_path / "synthetic"
    selection, captions = read_json(folder / "selection.json"), read_json(folder / "captions.json")
    assert [item["label"] for item in selection["items"]].count(0) == 4
    assert [item["loss"] for item in selection["items"]] == sorted(
        (item["loss"] for item in selection["items"]), reverse=True
    )
    assert [item["index"] for item in captions["items"]] == [item["index"] for item in selection["items"]]
    assert all(len(item["captions"]) == 2 for item in captions["items"])
    labels = {item["index"]: item["label"] for item in selection["items"]}
    found = read_lines(folder / "metadata.jsonl")
    assert len(found) == 14
    assert all(labels[record["source_index"]] == record["label"] for record in found)
    assert all(record["class_name"] == f"class{record['label']}" for record in found)
    for word in ("mining: 8 of 40", "captioning: 16", "text filter: ", "drawing: 14 of 14"):
        assert word in caplog.text
    metrics = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "synthesis/mining_precision" in metrics
    assert "synthesis/images" in metrics
    # Everything is there: nothing is loaded or drawn again.
    before, start = tree(folder), time.monotonic()
    broken = make_callback(*models, folder)
    assert isinstance(broken.generator, DiffusersGenerator)
    broken.generator.batch_size = 1
    run(broken)
    assert time.monotonic() - start < 2
    assert tree(folder) == before


def test_the_start_of_a_fit_will_do_too(tmp_path: Path) -> None:
    callback = make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=EchoCaptioner(), generator=Painter())
    callback.when = "start"
    fit(callback, tmp_path)
    assert len(read_lines(tmp_path / "s" / "metadata.jsonl")) == 14


def test_two_processes_make_what_one_makes(models: tuple[Path, Path], tmp_path: Path) -> None:
    run(make_callback(*models, tmp_path / "one"))
    assert run_ddp(run_on_rank, models, tmp_path / "two") == ["done", "done"]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_two_processes_broken_in_the_captions_are_finished_by_one(tmp_path: Path) -> None:
    models = (tmp_path, tmp_path)
    messages = run_ddp(run_on_rank, models, tmp_path / "two", 1)
    assert messages[0] == messages[1]
    assert "ValueError: no words" in messages[0]
    done = [record for file in (tmp_path / "two" / "partial").glob("captions-*") for record in read_lines(file)]
    assert len(done) == 3
    painted = {"captioner": EchoCaptioner(), "generator": Painter()}
    run(make_callback(*models, tmp_path / "two", **painted))
    run(make_callback(*models, tmp_path / "one", **painted))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_without_a_generator_the_mining_is_all(tmp_path: Path) -> None:
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=None, generator=None))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["losses.safetensors", "selection.json"]
    with pytest.raises(ConfigError, match=r"synthesize\.captioner"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=None))


def test_the_filter_can_be_off(tmp_path: Path) -> None:
    parts = {"captioner": EchoCaptioner(), "generator": Painter(), "text_filter": None, "images": "captions"}
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts))
    assert len(read_lines(tmp_path / "s" / "metadata.jsonl")) == 16
    assert not (tmp_path / "s" / "filter.json").exists()


@pytest.mark.parametrize(
    ("options", "file", "name"),
    [
        ({"top_k": 5}, "selection.json", "top_k: 4 then, 5 now"),
        ({"seed": 3}, "captions.json", "seed: 0 then, 3 now"),
        ({"text_filter": TextFilter(match="word")}, "filter.json", "match: 'substring' then, 'word' now"),
        ({"gate": Gate(retries=1)}, "plan.json", "gate.retries: 3 then, 1 now"),
        ({"images": 8}, "plan.json", "images: 7 then, 8 now"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    tmp_path: Path, options: dict[str, Any], file: str, name: str
) -> None:
    parts = {"captioner": EchoCaptioner(), "generator": Painter(fail_at=6)}
    with pytest.raises(ValueError, match="brush"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts))
    parts["generator"] = Painter()
    with pytest.raises(ConfigError, match=f"{file} was made with other settings .*{name}"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", **{**parts, **options}))
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts))
    with pytest.raises(ConfigError, match=r"plan\.json was made with other settings"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", **{**parts, **options}))


def test_a_finished_set_is_taken_over(tmp_path: Path) -> None:
    parts = {"captioner": EchoCaptioner(), "generator": Painter()}
    run(make_callback(tmp_path, tmp_path, tmp_path / "first", **parts))
    (tmp_path / "second/images").mkdir(parents=True)
    (tmp_path / "second/images/000002.png").write_bytes(b"of a set that was begun")
    run(make_callback(tmp_path, tmp_path, tmp_path / "second", reuse=tmp_path / "first"))
    taken = tree(tmp_path / "second")
    first = tree(tmp_path / "first")
    assert taken == {name: value for name, value in first.items() if name != "plan.json"}
    run(make_callback(tmp_path, tmp_path, tmp_path / "second", reuse=tmp_path / "first"))
    with pytest.raises(ConfigError, match=r"synthesize\.reuse: .*does not exist"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "third", reuse=tmp_path / "nowhere"))
    manifest = tmp_path / "first" / "metadata.jsonl"
    manifest.write_text(json.dumps({**read_lines(manifest)[0], "class_name": "cow"}) + "\n")
    with pytest.raises(ConfigError, match=r"synthesize\.reuse: .*'cow'"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "third", reuse=tmp_path / "first"))
    (tmp_path / "first" / "images" / "000000.png").unlink()
    manifest.write_text((tmp_path / "second" / "metadata.jsonl").read_text())
    with pytest.raises(ConfigError, match=r"synthesize\.reuse: .*000000\.png is missing"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "third", reuse=tmp_path / "first"))


def test_the_captions_may_be_all(tmp_path: Path) -> None:
    callback = make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=EchoCaptioner(), generator=Painter())
    callback.draw = False
    check_synthesis(callback, ToyData(), Vanilla())
    run(callback)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "captions.json", "filter.json", "losses.safetensors", "partial", "selection.json",
    ]  # fmt: skip
    for options in ({"generator": None}, {"prompts": Templates(), "generator": Painter()}):
        other = make_callback(tmp_path, tmp_path, tmp_path / "t", **{"captioner": EchoCaptioner(), **options})
        other.draw = False
        with pytest.raises(ConfigError, match="caption"):
            check_synthesis(other, ToyData(), Vanilla())


def test_the_epoch_that_validation_chose_may_mine(tmp_path: Path) -> None:
    best, module, data = ToyClassifier(), ToyClassifier(), ToyData()
    for parameter in best.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)
    trainer.datamodule = data  # type: ignore[attr-defined]
    callback = make_callback(tmp_path, tmp_path, tmp_path / "s", generator=None, mine_epoch="best")
    check_synthesis(callback, data, Vanilla())
    with pytest.raises(ConfigError, match=r"mine_epoch=best: there is no .*best\.ckpt: no epoch .* was validated"):
        callback.synthesize(trainer, module)
    (tmp_path / BEST).parent.mkdir()
    torch.save({"state_dict": best.state_dict()}, tmp_path / BEST)
    callback.synthesize(trainer, module)
    measured = read_losses(tmp_path / "s")
    expected, _ = mine_losses(best, data.mining_dataloader(0, 1), torch.device("cpu"))
    assert measured is not None
    assert torch.equal(torch.from_numpy(measured.loss), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ConfigError, match=r"selection\.json .*epoch: 'best' then, None now"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=None))
    callback.when = "start"
    with pytest.raises(ConfigError, match="start mines before"):
        check_synthesis(callback, data, Vanilla())


def test_another_model_of_the_stage_before_is_noticed(tmp_path: Path) -> None:
    class Learner(Painter):
        def __init__(self, model: str, **options: Any) -> None:
            super().__init__(**options)
            self._model = model

        def fingerprint(self) -> str:
            return self._model

    options: dict[str, Any] = {"prompts": Templates(), "images": 4}
    with pytest.raises(ValueError, match="brush"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Learner("a", fail_at=6), **options))
    with pytest.raises(ConfigError, match=r"plan\.json was made with other settings \(model: 'a' then, 'b' now\)"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Learner("b"), **options))
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Learner("a"), **options))


def test_prompts_are_drawn_without_mining(tmp_path: Path) -> None:
    prompts = Templates(["a {class} on {bias}"], biases={"ground1": ["grass", "sand"]})
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Painter(), prompts=prompts, images=3))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "images", "metadata.jsonl", "plan.json", "rejected.jsonl", "strip.png",
    ]  # fmt: skip
    records = read_lines(tmp_path / "s" / "metadata.jsonl")
    assert [(record["label"], record["bias"]) for record in records] == [
        (label, bias) for label in (0, 1) for bias in (0, 1) for _ in range(3)
    ]
    assert {record["source_index"] for record in records} == {-1}
    grounds = ["ground0"] * 3 + ["grass", "sand", "grass"]
    assert [record["prompt"] for record in records[:6]] == [f"a class0 on {ground}" for ground in grounds]
    with pytest.raises(ConfigError, match=r"plan\.json was made with other settings .*prompts\.templates"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Painter(), prompts=Templates(), images=3))
    with pytest.raises(ConfigError, match=r"synthesize\.generator is null"):
        run(make_callback(tmp_path, tmp_path, tmp_path / "t", generator=None, prompts=prompts, images=3))


def test_the_generator_may_learn_from_the_stage_before(tmp_path: Path) -> None:
    class Pupil(Painter):
        def learn_from(self, module: L.LightningModule, data: Any, folder: Path) -> None:
            self._lesson = (module, data, folder)

    pupil, module = Pupil(), ToyClassifier()
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=pupil, prompts=Templates(), images=1), module)
    assert pupil._lesson[0] is module
    assert isinstance(pupil._lesson[1], ToyData)
    assert pupil._lesson[2].name == "model"


def test_the_run_seed_changes_captions_and_images_only(tmp_path: Path) -> None:
    for seed in (0, 1):
        parts = {"captioner": EchoCaptioner(), "generator": Painter(), "seed": seed}
        run(make_callback(tmp_path, tmp_path, tmp_path / str(seed), **parts))
    zero, one = tree(tmp_path / "0"), tree(tmp_path / "1")
    assert zero["selection.json"] == one["selection.json"]
    assert all(zero[name] != one[name] for name in zero if name.startswith("images"))
    assert zero["captions.json"] != one["captions.json"]


def test_the_command_line_reaches_every_part() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SynthesizeCallback, "synthesize")
    config = parser.parse_args(
        ["--synthesize.captioner.captions_per_image=5", "--synthesize.top_k=7", "--synthesize.miner.scope=set",
         "--synthesize.generator.scheduler=DDIMScheduler", "--synthesize.text_filter=null",
         "--synthesize.images=captions", "--synthesize.gate.retries=9"]
    )  # fmt: skip
    assert parser.parse_string(parser.dump(config, skip_none=False)).as_dict() == config.as_dict()
    callback = parser.instantiate_classes(config).synthesize
    assert isinstance(callback.captioner, Captioner)
    assert callback.captioner.captions_per_image == 5
    assert callback.text_filter is None
    assert callback.generator.scheduler == "DDIMScheduler"
    assert (callback.top_k, callback.miner.scope, callback.images, callback.gate.retries) == (7, "set", "captions", 9)


def test_the_defaults_are_those_of_the_paper() -> None:
    settings = SynthesizeCallback().settings()
    assert settings["top_k"] == 100
    assert settings["captioner"]["model"] == "xtuner/llava-llama-3-8b-v1_1-transformers"
    assert settings["captioner"]["captions_per_image"] == 3
    assert settings["text_filter"] == {
        "class": "TextFilter", "language": "english", "match": "substring", "words_per_class": 2,
    }  # fmt: skip
    assert settings["generator"]["class"] == "DiffusersGenerator"
    assert settings["images"] == "aligned"


def test_importing_the_callback_loads_no_heavy_library() -> None:
    # Lightning's metrics library may import transformers by itself.
    code = """if True:
        import sys, lightning
        before = set(sys.modules)
        import callbacks
        print([m for m in ("diffusers", "transformers", "nltk", "sklearn") if m in set(sys.modules) - before])
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_easy_images_are_captioned_on_request(tmp_path: Path) -> None:
    """Their captions change nothing else, and go on where a failure broke them off."""
    painted = {"generator": Painter()}
    run(make_callback(tmp_path, tmp_path, tmp_path / "plain", captioner=Tired(), **painted))
    broken = make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=Tired(calls=4), explain=5, **painted)
    with pytest.raises(ValueError, match="tired"):
        run(broken)
    captioner = Tired()
    run(make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=captioner, explain=5, **painted))
    assert captioner.captioned == 10 - 3  # the first batch was on the disk
    assert captioner.released == 1
    contrast = read_json(tmp_path / "s" / "contrast.json")["items"]
    losses = read_losses(tmp_path / "s")
    assert losses is not None
    mined = {item["index"] for item in read_json(tmp_path / "s" / "selection.json")["items"]}
    assert [item["index"] for item in contrast] == losses.lowest(5, mined)
    assert [item["label"] for item in contrast] == [0] * 5 + [1] * 5
    assert all(len(item["captions"]) == 2 for item in contrast)
    with_it, without = tree(tmp_path / "s"), tree(tmp_path / "plain")
    assert with_it.keys() - without.keys() == {"contrast.json"}
    assert all(with_it[name] == content for name, content in without.items())


def test_a_run_that_kept_no_losses_goes_on_unexplained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=EchoCaptioner(), generator=None)
    run(callback)
    (tmp_path / "s" / "losses.safetensors").unlink()
    with caplog.at_level(logging.INFO, "diffubias"):
        run(
            make_callback(tmp_path, tmp_path, tmp_path / "s", captioner=EchoCaptioner(), generator=Painter(), explain=2)
        )
    assert "losses.safetensors or selection.json is missing" in caplog.text
    assert len(read_lines(tmp_path / "s" / "metadata.jsonl")) == 14


class Tired(EchoCaptioner):
    """Fails at some call, and counts what it is asked for."""

    def __init__(self, calls: int = 99) -> None:
        super().__init__()
        self._calls, self._captioned, self._released = calls, 0, 0

    @property
    def captioned(self) -> int:
        return self._captioned

    @property
    def released(self) -> int:
        return self._released

    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        self._calls -= 1
        if self._calls < 0:
            raise ValueError("tired")
        self._captioned += len(images)
        return super().caption(images, seeds)

    def release(self) -> None:
        self._released += 1
