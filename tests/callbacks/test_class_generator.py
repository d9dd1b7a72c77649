from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from callbacks import SynthesizeCallback
from callbacks.synthesis import ClassGenerator
from callbacks.synthesis.plan import Prompt
from lightning_modules import ClassDiffusion, ConfigError
from tests.callbacks.toy import ToyClassifier, ToyData

CPU = torch.device("cpu")
PROMPTS = [Prompt(label, -1, "") for label in (0, 1, 1, 0)]
SEEDS = [5, 6, 7, 5]


def fitted() -> ClassDiffusion:
    torch.manual_seed(0)
    module = ClassDiffusion(num_classes=2, size=8, channels=(8, 16), attention=(False, False), layers_per_block=1)
    module.configure_model()
    return module


@pytest.fixture(name="folder", scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage") / "model"
    fitted().export(folder, ToyData())
    return folder


def loaded(folder: Path, **options: Any) -> ClassGenerator:
    generator = ClassGenerator(folder, **{"steps": 3, **options})
    generator.check(None, ToyData())
    generator.load(CPU)
    return generator


def pixels(generator: ClassGenerator, prompts: list[Prompt], seeds: list[int]) -> list[Any]:
    images = [sample.image for sample in generator.sample(prompts, seeds)]
    assert all(image is not None and image.dtype == np.uint8 and image.shape == (8, 8, 3) for image in images)
    return [image.astype(int) for image in images if image is not None]


@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_an_image_belongs_to_class_and_seed_not_to_the_batch(folder: Path, scheduler: str | None) -> None:
    generator = loaded(folder, scheduler=scheduler)
    together = pixels(generator, PROMPTS, SEEDS)
    for prompt, seed, image in zip(PROMPTS, SEEDS, together, strict=True):
        (alone,) = pixels(generator, [prompt], [seed])
        assert np.abs(alone - image).max() <= 1
        assert image.std() > 2
    assert np.abs(together[0] - together[3]).max() <= 1
    assert np.abs(together[1] - together[2]).max() > 20


def test_weight_and_scale_say_the_same(folder: Path) -> None:
    weight, scale, none = (loaded(folder, **own) for own in ({"weight": 2.0}, {"scale": 3.0}, {"weight": 0.0}))
    assert weight.settings() == scale.settings()
    assert weight.describe()["guidance"] == 3.0
    assert np.array_equal(pixels(weight, PROMPTS, SEEDS), pixels(scale, PROMPTS, SEEDS))
    assert not np.array_equal(pixels(weight, PROMPTS, SEEDS), pixels(none, PROMPTS, SEEDS))


def test_the_model_of_the_stage_before_is_written_once(tmp_path: Path) -> None:
    module = fitted()
    generator = ClassGenerator(steps=2)
    generator.check(module, ToyData())
    assert generator.fingerprint() == ""
    generator.learn_from(module, ToyData(), tmp_path / "model")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors" in files
    again = ClassGenerator(steps=2)
    again.learn_from(module, ToyData(), tmp_path / "model")
    assert len(again.fingerprint()) == 16
    assert again.fingerprint() == generator.fingerprint()
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again.load(CPU)
    named = loaded(tmp_path / "model", steps=2)
    assert np.array_equal(pixels(again, PROMPTS, SEEDS), pixels(named, PROMPTS, SEEDS))
    again.release()
    with pytest.raises(RuntimeError, match="load"):
        again.sample(PROMPTS, SEEDS)


def test_no_default_of_another_generator_leaks_in() -> None:
    """jsonargparse keeps the arguments of the default class that the chosen class has too."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SynthesizeCallback, "synthesize")
    words = ["--synthesize.generator=callbacks.synthesis.ClassGenerator"]
    chosen = parser.instantiate_classes(parser.parse_args(words)).synthesize.generator
    assert {**vars(chosen)} == vars(ClassGenerator())


def test_a_named_model_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    generator = ClassGenerator(folder)
    generator.learn_from(ToyClassifier(), ToyData(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fitted ToyClassifier"):
        ClassGenerator().learn_from(ToyClassifier(), ToyData(), tmp_path / "model")
    with pytest.raises(ConfigError, match=r"synthesize\.generator\.folder: .*holds no unet"):
        ClassGenerator(tmp_path).check(None, ToyData())
    with pytest.raises(ConfigError, match="fitted ToyClassifier"):
        ClassGenerator().check(ToyClassifier(), ToyData())
    ClassGenerator(folder).check(ToyClassifier(), ToyData())
    with pytest.raises(ConfigError, match=r"draws the classes class0, class1, which are not those"):
        ClassGenerator(folder).check(None, ToyData(classes=3))
    for module, own in ((ToyClassifier(), folder), (ClassDiffusion(noise_steps=20, grid_steps=20), None)):
        with pytest.raises(ConfigError, match=r"synthesize\.generator\.scheduler: diffusers has no scheduler"):
            ClassGenerator(own, scheduler="Nothing").check(module, ToyData())
        with pytest.raises(ConfigError, match=r"scheduler: FlowMatchEuler\w+ cannot take .* DDPMScheduler"):
            ClassGenerator(own, scheduler="FlowMatchEulerDiscreteScheduler").check(module, ToyData())
        with pytest.raises(ConfigError, match=r"synthesize\.generator\.steps: .*the (20|1000) that"):
            ClassGenerator(own, steps=1001).check(module, ToyData())
    with pytest.raises(ConfigError, match="no less guidance than none"):
        ClassGenerator(scale=0.5)
    with pytest.raises(ConfigError, match="at least 1"):
        ClassGenerator(steps=0)
