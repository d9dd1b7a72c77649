from pathlib import Path
from typing import Any

import pytest

from callbacks.synthesis import ClassGenerator
from callbacks.synthesis.templates import Templates
from callbacks.synthesis_check import check_synthesis
from lightning_modules import ClassDiffusion, ConfigError, Vanilla
from tests.callbacks.toy import EchoCaptioner, Painter, ToyData, make_callback


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 20, "images": "aligned", "captioner": EchoCaptioner()}, "top_k=20 mines all 40"),
        ({"images": 0}, "images"),
        ({"captioner": None}, "captioner"),
        ({"reuse": Path("nowhere")}, "reuse"),
        ({}, r"captioner\.model"),
        ({"prompts": Templates(), "generator": Painter(), "images": "aligned"}, "images=aligned"),
        ({"prompts": Templates(classes={"cow": ["cow"]}), "generator": Painter()}, r"prompts\.classes"),
        ({"prompts": Templates(), "generator": None}, "prompts are drawn from"),
        ({"images": "uniform"}, "images=uniform goes with"),
    ],
)
def test_what_cannot_work_is_refused_before_the_fit(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"synthesize\.{key}"):
        check_synthesis(
            make_callback(tmp_path / "nowhere", tmp_path / "nowhere", tmp_path / "s", **options), ToyData(), Vanilla()
        )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "images/0', "torn or incomplete record"),
        ('{"file_name": "images/0.png", "label": 0, "class_name": "cow", "source_index": 0}', "'cow'"),
        ('{"file_name": "images/0.png", "label": 0, "source_index": 0}', "images/0.png is missing"),
    ],
)
def test_a_set_that_cannot_be_taken_over_is_refused_before_the_fit(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=rf"synthesize\.reuse: .*line 1: .*{reason}.*; give the synthetic folder"):
        check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", reuse=tmp_path), ToyData(), Vanilla())


def test_a_module_that_classifies_nothing_cannot_mine(tmp_path: Path) -> None:
    module = ClassDiffusion()
    parts: dict[str, Any] = {"captioner": EchoCaptioner(), "generator": Painter()}
    with pytest.raises(ConfigError, match="ClassDiffusion classifies nothing"):
        check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts), ToyData(), module)
    check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts), ToyData(), module, mined=True)
    drawing = make_callback(tmp_path, tmp_path, tmp_path / "s", prompts=Templates(), generator=ClassGenerator())
    check_synthesis(drawing, ToyData(), module)
    with pytest.raises(ConfigError, match=r"synthesize\.generator\.folder: .*fitted Vanilla"):
        check_synthesis(drawing, ToyData(), Vanilla())
    drawing.when = "start"
    with pytest.raises(ConfigError, match="before ClassDiffusion has learnt"):
        check_synthesis(drawing, ToyData(), module)


def test_what_can_work_is_let_through(captioning_model: Path, stable_diffusion: Path, tmp_path: Path) -> None:
    check_synthesis(make_callback(captioning_model, stable_diffusion, tmp_path / "s"), ToyData(), Vanilla())
    check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", generator=None), ToyData(), Vanilla())
    parts = {"captioner": EchoCaptioner(), "generator": Painter()}
    check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts), ToyData(), Vanilla())
    check_synthesis(
        make_callback(tmp_path, tmp_path, tmp_path / "s", **parts, top_k=19, images="aligned"), ToyData(), Vanilla()
    )
    check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", **parts, top_k=20), ToyData(), Vanilla())
    check_synthesis(
        make_callback(tmp_path, tmp_path, tmp_path / "s", generator=Painter(), prompts=Templates()),
        ToyData(),
        Vanilla(),
    )


def test_nothing_is_explained_a_negative_number_of_times(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.explain must be 0 or more"):
        check_synthesis(make_callback(tmp_path, tmp_path, tmp_path / "s", explain=-1), ToyData(), Vanilla())
