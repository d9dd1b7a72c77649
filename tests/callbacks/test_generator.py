from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.synthesis import DiffusersGenerator, Gate
from callbacks.synthesis.plan import Prompt
from lightning_modules.errors import ConfigError
from tests import tiny_models

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, number, caption) for number, caption in enumerate(("a man", "a dog on grass", "boat"))]
SEEDS = [11, 12, 13]
PIPELINES: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": tiny_models.save_stable_diffusion,
    "stable_diffusion_xl": tiny_models.save_stable_diffusion_xl,
    "stable_diffusion_3": tiny_models.save_stable_diffusion_3,
    "pixart": tiny_models.save_pixart,
}


def loaded(folder: Path, **options: Any) -> DiffusersGenerator:
    generator = DiffusersGenerator(str(folder), **{"steps": 2, "guidance": 3.0, **options})
    generator.load(CPU)
    return generator


@pytest.mark.parametrize("name", PIPELINES)
def test_an_image_belongs_to_prompt_and_seed_not_to_the_batch(name: str, tmp_path: Path) -> None:
    extra = {"use_resolution_binning": False} if name == "pixart" else {}
    generator = loaded(PIPELINES[name](tmp_path / "m"), negative_prompt="sky", extra=extra)
    together = generator.sample(PROMPTS, SEEDS)
    for place, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone, image = generator.sample([prompt], [seed])[0].image, together[place].image
        assert image is not None
        assert alone is not None
        assert image.shape == (32, 32, 3)
        assert image.std() > 2
        assert np.abs(alone.astype(int) - image).max() <= 2
    other = generator.sample(PROMPTS[:1], [99])[0].image
    assert other is not None
    assert together[0].image is not None
    assert np.abs(other.astype(int) - together[0].image).max() > 2


def test_plain_diffusers_draws_the_same_image(stable_diffusion: Path) -> None:
    from diffusers import StableDiffusionPipeline

    ours = loaded(stable_diffusion).sample(PROMPTS[:1], SEEDS[:1])[0].image
    pipeline: Any = StableDiffusionPipeline
    theirs = pipeline.from_pretrained(stable_diffusion)(
        PROMPTS[0].caption,
        generator=torch.Generator("cpu").manual_seed(SEEDS[0]),
        num_inference_steps=2,
        guidance_scale=3.0,
    ).images[0]
    assert ours is not None
    assert np.abs(np.asarray(theirs).astype(int) - ours).max() <= 1


def test_size_scheduler_and_further_arguments(stable_diffusion: Path) -> None:
    generator = loaded(
        stable_diffusion, width=16, height=24, scheduler="DPMSolverMultistepScheduler", extra={"guidance_rescale": 0.5}
    )
    assert type(generator._pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    image = generator.sample(PROMPTS[:1], SEEDS[:1])[0].image
    assert image is not None
    assert image.shape == (24, 16, 3)
    assert generator.expected_size() == (16, 24)


def test_unknown_scheduler_and_argument_name_the_key(stable_diffusion: Path) -> None:
    model = str(stable_diffusion)
    with pytest.raises(ConfigError, match=r"synthesize\.generator\.scheduler: .*'Magic'.*DDIMScheduler"):
        DiffusersGenerator(model, scheduler="Magic").check(None, None)
    with pytest.raises(ConfigError, match=r"synthesize\.generator: .*no argument magic"):
        DiffusersGenerator(model, extra={"magic": 1}).check(None, None)
    with pytest.raises(ConfigError, match=r"synthesize\.generator\.scheduler: Flow.* cannot .*DDIMScheduler"):
        DiffusersGenerator(model, scheduler="FlowMatchEulerDiscreteScheduler").check(None, None)
    DiffusersGenerator(model, scheduler="DDIMScheduler", extra={"guidance_rescale": 0.5}).check(None, None)
    with pytest.raises(ConfigError, match="prompt_template"):
        DiffusersGenerator("a/b", prompt_template="no place")
    with pytest.raises(ConfigError, match="steps"):
        DiffusersGenerator("a/b", steps=0)


def test_prompts_that_are_cut_are_counted(tmp_path: Path, stable_diffusion: Path) -> None:
    long, short = "grass " * 5, "a dog"
    assert loaded(stable_diffusion).truncated([long, short, long]) == {"tokenizer": 2}
    counts = loaded(PIPELINES["stable_diffusion_3"](tmp_path / "m"), extra={"max_sequence_length": 5}).truncated([long])
    assert counts == {"tokenizer": 1, "tokenizer_2": 1, "tokenizer_3": 1}


def test_a_processor_in_the_place_of_a_tokenizer_is_asked_for_its_own(tmp_path: Path, stable_diffusion: Path) -> None:
    processor: Any = import_module("transformers").AutoProcessor
    generator = loaded(stable_diffusion)
    generator._pipeline.tokenizer = processor.from_pretrained(tiny_models.save_llava(tmp_path / "m"))
    assert generator.truncated(["grass " * 300, "a dog"]) == {"tokenizer": 1}


def test_the_template_goes_around_the_caption() -> None:
    generator = DiffusersGenerator("a/b", prompt_template="{caption}, {photo}")
    assert generator.prompt("a {dog}") == "a {dog}, {photo}"
    assert generator.describe()["generator"] == "a/b"


def test_the_safety_checker_is_heard(tmp_path: Path) -> None:
    checker = tiny_models.safety_checker()
    checker.concept_embeds_weights.data.fill_(-2.0)  # below any cosine: everything is flagged
    folder = tiny_models.save_stable_diffusion(tmp_path / "m", safety_checker=checker)
    samples = loaded(folder).sample(PROMPTS, SEEDS)
    assert [sample.unsafe for sample in samples] == [True, True, True]
    assert Gate().check(samples[0]) == "unsafe"


def test_numbers_that_are_none_are_caught(tmp_path: Path) -> None:
    generator = loaded(tiny_models.save_stable_diffusion(tmp_path / "m"))
    generator._pipeline.unet.conv_out.bias.data.fill_(float("nan"))
    sample = generator.sample(PROMPTS[:1], SEEDS[:1])[0]
    assert Gate().check(sample) == "nan"


def test_release_forgets_the_pipeline(stable_diffusion: Path) -> None:
    generator = loaded(stable_diffusion)
    generator.release()
    with pytest.raises(RuntimeError, match="load"):
        generator.sample(PROMPTS, SEEDS)
