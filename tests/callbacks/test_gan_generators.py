"""Drawing with GANs: from classes, and by translating real images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.synthesis import GANGenerator, Translator
from callbacks.synthesis.plan import Prompt, without_captions
from lightning_modules import AdaptedGAN, ConfigError, FastGAN, StyleGAN2
from tests.callbacks.toy import ToyClassifier, ToyData, draw

CPU = torch.device("cpu")
PROMPTS = [Prompt(label, source, "x") for label, source in ((0, 4), (1, 7), (1, 9), (0, 4))]
SEEDS = [5, 6, 7, 5]


class Data(ToyData):
    source = "mined"


def fast() -> FastGAN:
    torch.manual_seed(0)
    module = FastGAN(num_classes=2, size=8, latent=8, width=2)
    module.configure_model()
    return module


def adapted() -> AdaptedGAN:
    torch.manual_seed(0)
    source = StyleGAN2(num_classes=2, size=8, latent=8, style=8, mapping_layers=1, width=2, max_channels=8)
    source.configure_model()
    module = AdaptedGAN(num_classes=2, size=8)
    module.helpers = {"source": [source]}
    module.configure_model()
    assert module.average is not None
    with torch.no_grad():  # as if it had been trained
        for own in module.average.get_submodule("to_rgb").parameters():
            own.add_(0.3)
    return module


def generators(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"gan": GANGenerator(batch_size=2), "translator": Translator(steps=40, batch_size=2)}
    modules: dict[str, Any] = {"gan": fast(), "translator": adapted()}
    for name, generator in made.items():
        generator.check(modules[name], Data())
        generator.learn_from(modules[name], Data(), folder / name)
        generator.load(CPU)
    return made


def pixels(generator: Any, prompts: list[Prompt], seeds: list[int]) -> list[Any]:
    images = [sample.image for sample in generator.sample(prompts, seeds)]
    assert all(image is not None and image.dtype == np.uint8 and image.shape == (8, 8, 3) for image in images)
    return [image.astype(int) for image in images if image is not None]


@pytest.mark.parametrize("name", ["gan", "translator"])
def test_an_image_belongs_to_prompt_and_seed_not_to_the_batch(name: str, tmp_path: Path) -> None:
    generator = generators(tmp_path)[name]
    together = pixels(generator, PROMPTS, SEEDS)
    for prompt, seed, image in zip(PROMPTS, SEEDS, together, strict=True):
        (alone,) = pixels(generator, [prompt], [seed])
        assert np.abs(alone - image).max() <= 2
    assert np.abs(together[0] - together[3]).max() <= 2
    assert np.abs(together[1] - together[2]).max() > 2
    assert len(generator.fingerprint()) == 16
    folder = tmp_path / name
    assert "0 class0, 1 class1" in (folder / "README.md").read_text()
    assert not list(folder.rglob("*.bin"))
    generator.release()
    with pytest.raises(RuntimeError, match="load"):
        generator.sample(PROMPTS, SEEDS)


def test_a_set_is_drawn_through_the_gate(tmp_path: Path) -> None:
    for name, generator in generators(tmp_path).items():
        assert draw(tmp_path / f"set-{name}", generator, PROMPTS[:3]).get("keep", 0) >= 1
        lines = (tmp_path / f"set-{name}" / "metadata.jsonl").read_text()
        assert type(generator).__name__ in lines


def test_without_adaptation_a_translation_comes_nearer_to_the_image_with_every_step(tmp_path: Path) -> None:
    folder = tmp_path / "translator"
    generators(tmp_path)
    for name in ("config.json", "model.safetensors"):  # both generators are the source
        shutil.copy(folder / f"source-{name}", folder / name)
    errors = []
    for steps in (1, 20, 200):
        translator = Translator(folder, steps=steps)
        translator.check(None, Data())
        translator.learn_from(fast(), Data(), tmp_path / "unused")
        translator.load(CPU)
        found = pixels(translator, PROMPTS, SEEDS)
        wanted = [np.asarray(Data().source_image(prompt.source_index).resize((8, 8))).astype(int) for prompt in PROMPTS]
        errors.append(np.mean([np.square(one - other).mean() for one, other in zip(found, wanted, strict=True)]))
    assert errors[0] > errors[1] > errors[2]


def test_mistakes_are_named(tmp_path: Path) -> None:
    for kind, wanted in ((GANGenerator, "GAN"), (Translator, "AdaptedGAN")):
        with pytest.raises(ConfigError, match=f"fitted ToyClassifier: let it fit {wanted}"):
            kind().check(ToyClassifier(), Data())
        with pytest.raises(ConfigError, match=r"synthesize\.generator\.folder: .* holds no"):
            kind(tmp_path).check(None, Data())
    with pytest.raises(ConfigError, match="let it fit AdaptedGAN"):
        Translator().check(fast(), Data())
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        Translator(steps=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        GANGenerator(batch_size=0)
    generators(tmp_path)
    with pytest.raises(ConfigError, match="draws the classes class0, class1"):
        GANGenerator(tmp_path / "gan").check(None, ToyData(classes=3))


def test_a_damaged_folder_is_told_before_the_first_fit(tmp_path: Path) -> None:
    generators(tmp_path)
    folder = tmp_path / "gan"
    whole = (folder / "config.json").read_text()
    for content, message in (
        ('{"network": "UNet2DModel"}', r"synthesize\.generator\.folder: .* describes no generator of a GAN"),
        ('{"network": []}', "describes no generator of a GAN"),
        ("[]", "describes no generator of a GAN"),
        ("{", r"synthesize\.generator\.folder: .* cannot be loaded"),
        (whole.replace('"width"', '"depth"'), "does not fit FastGANGenerator"),
        (whole.replace('"width": 2', '"width": 4'), "are not the weights of the network"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            GANGenerator(folder).check(None, Data())
    (folder / "config.json").write_text(whole)
    GANGenerator(folder).check(None, Data())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        GANGenerator(folder).check(None, Data())
    weights.unlink()
    with pytest.raises(ConfigError, match=r"synthesize\.generator\.folder: .* holds no weights"):
        GANGenerator(folder).check(None, Data())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "source-model.safetensors"])
def test_a_translator_needs_both_generators(missing: str, tmp_path: Path) -> None:
    generators(tmp_path)
    folder = tmp_path / "translator"
    Translator(folder).check(None, Data())
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=rf"synthesize\.generator\.folder: .*{missing}"):
        Translator(folder).check(None, Data())


def test_a_translator_needs_the_generators_of_stylegan2(tmp_path: Path) -> None:
    generators(tmp_path)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "gan" / name, tmp_path / "translator" / name)
    with pytest.raises(ConfigError, match="names FastGANGenerator, not StyleGAN2Generator"):
        Translator(tmp_path / "translator").check(None, Data())


def test_what_is_drawn_from_without_captions() -> None:
    labels, names = [0, 1, 0, 1, 1, 2], ("a", "b", "c")
    classes = without_captions(labels, {0, 4}, names, from_images=False, seed=1)
    assert classes == [Prompt(0, -1, "a"), Prompt(1, -1, "b")]
    images = without_captions(labels, {0, 4}, names, from_images=True, seed=1)
    assert sorted(prompt.source_index for prompt in images) == [1, 2, 3, 5]
    assert all(prompt.label == labels[prompt.source_index] for prompt in images)
    assert images == without_captions(labels, {0, 4}, names, from_images=True, seed=1)
    many = [[p.source_index for p in without_captions([0] * 50, set(), names, True, seed)] for seed in (1, 2)]
    assert many[0] != many[1]
