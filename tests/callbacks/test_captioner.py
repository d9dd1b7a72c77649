from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.synthesis import Captioner
from callbacks.synthesis.captioner import drop_prompt
from callbacks.synthesis.sampling import RowSampler
from lightning_modules.errors import ConfigError
from tests import tiny_models

CPU = torch.device("cpu")
IMAGES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 255, (30 + 5 * n, 40, 3), dtype=np.uint8)) for n in range(4)
]
SEEDS = [[10 * image + number for number in range(3)] for image in range(4)]
MODELS: dict[str, Callable[[Path], Path]] = {
    "llava": tiny_models.save_llava,
    "llava_old": partial(tiny_models.save_llava, template=tiny_models.TEXT_ONLY_TEMPLATE, old_processor=True),
    "gemma_3": tiny_models.save_gemma_3,
    "blip": tiny_models.save_blip,
    "vision_encoder_decoder": tiny_models.save_vision_encoder_decoder,
}


def loaded(folder: Path, **options: Any) -> Captioner:
    captioner = Captioner(str(folder), max_new_tokens=6, **options)
    captioner.load(CPU)
    return captioner


@pytest.mark.parametrize("name", MODELS)
def test_captions_belong_to_image_and_seed_not_to_the_batch(name: str, tmp_path: Path) -> None:
    captioner = loaded(MODELS[name](tmp_path / name))
    texts = captioner.caption(IMAGES, SEEDS)
    assert [len(own) for own in texts] == [3, 3, 3, 3]
    assert len({text for own in texts for text in own}) > 8
    # Only new words: neither the instruction nor special tokens.
    assert {word for own in texts for text in own for word in text.split()} <= set(tiny_models.WORDS)
    assert not any("Describe" in text or "<" in text or "[" in text for own in texts for text in own)
    torch.manual_seed(99)
    order = [2, 0]
    again = captioner.caption([IMAGES[n] for n in order], [SEEDS[n] for n in order])
    assert again == [texts[n] for n in order]
    captioner.release()
    with pytest.raises(RuntimeError, match="load"):
        captioner.caption(IMAGES, SEEDS)


def test_the_chat_template_writes_the_prompt_once(tmp_path: Path) -> None:
    captioner = loaded(tiny_models.save_llava(tmp_path / "m"), prompt="a photo of what")
    assert captioner._reader is not None
    assert captioner._reader.text == "user : <image> a photo of what assistant :"
    inputs = captioner._reader.inputs(IMAGES[:2])
    # 32 pixels in patches of 16 make 4 image tokens.
    assert (inputs["input_ids"] == 4).sum(1).tolist() == [4, 4]


def test_an_old_llava_repository_gets_one_start_token_and_its_patch_size(tmp_path: Path) -> None:
    captioner = loaded(MODELS["llava_old"](tmp_path / "m"))
    assert captioner._reader is not None
    inputs = captioner._reader.inputs(IMAGES[:1])
    assert (inputs["input_ids"] == 1).sum() == 1
    assert (inputs["input_ids"] == 4).sum() == 4
    assert inputs["input_ids"][0, 0] == 1


def test_blip_takes_a_beginning(tmp_path: Path) -> None:
    folder = tiny_models.save_blip(tmp_path / "m")
    with_start, without = loaded(folder, prompt="a photo of"), loaded(folder)
    texts = with_start.caption(IMAGES, SEEDS)
    assert texts != without.caption(IMAGES, SEEDS)
    assert all(len(text.split()) <= 6 for own in texts for text in own)


def test_a_model_without_text_input_refuses_a_prompt(captioning_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.captioner\.prompt"):
        loaded(captioning_model, prompt="what is it")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_p": 0.0}, {"captions_per_image": 0}])
def test_bad_options_name_the_key(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.captioner"):
        Captioner("a/b", **options)


def test_prompts_are_cut_only_where_they_are_repeated() -> None:
    prompt = torch.tensor([[1, 5, 6]])
    assert drop_prompt(torch.tensor([[1, 5, 6, 7, 8]]), prompt).tolist() == [[7, 8]]
    assert drop_prompt(torch.tensor([[1, 5, 7, 8]]), prompt).tolist() == [[7, 8]]
    assert drop_prompt(torch.tensor([[2, 7, 8]]), prompt).tolist() == [[2, 7, 8]]


def test_the_sampler_follows_the_nucleus_distribution() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0, -5.0]])
    rows = 4000
    sampler = RowSampler(list(range(rows)), 1, temperature=1.5, top_p=0.8)
    chosen = sampler(torch.empty(0), logits.expand(rows, -1)).argmax(-1)
    expected = torch.softmax(logits[0] / 1.5, -1)
    inside = torch.cumsum(expected, 0) - expected < 0.8
    expected = torch.where(inside, expected, 0) / expected[inside].sum()
    found = torch.bincount(chosen, minlength=5) / rows
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    assert found[~inside].sum() == 0


def test_the_sampler_with_the_whole_vocabulary_never_takes_impossible_tokens() -> None:
    sampler = RowSampler(list(range(50)), 20, temperature=1.0, top_p=1.0)
    scores = torch.tensor([[0.0, float("-inf"), 1.0, float("-inf")]]).expand(50, -1)
    for _ in range(20):
        assert set(sampler(torch.empty(0), scores).argmax(-1).tolist()) <= {0, 2}
