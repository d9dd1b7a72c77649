"""The build of the embedded models: the same modules that users fit, from fresh weights."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from assets import build, build_text2image
from assets.training import HELD_OUT_SEED, balanced
from assets.world import WORDINGS, World
from callbacks.synthesis import Captioner
from datamodules.miniature_world import BUILD_SEED, Scene, describe

LIBRARY: Any = diffusers


def test_pictures_of_the_world_have_the_texts_of_what_they_show() -> None:
    data = World(train_size=128, val_size=64, wordings="captions", augment="none")
    data.setup("fit")
    shown = balanced(128, BUILD_SEED)
    texts = data.split_texts("train")
    assert texts is not None
    for own, scene in zip(texts, shown.attributes.tolist(), strict=True):
        assert list(own) == [describe(Scene(*scene), template) for template in WORDINGS["captions"]]
    assert torch.equal(data.train_labels(), shown.attributes[:, 0])
    assert torch.equal(data.train_biases(), shown.attributes[:, 1])
    (first, *_) = data.val_dataloader()
    assert not torch.equal(first["image"], next(iter(data.chosen_dataloader("train", range(64))))["image"])


@pytest.mark.slow
@pytest.mark.parametrize("part", build.PARTS[2:])
def test_a_build_fits_the_modules_and_keeps_the_card(part: str, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    (out / part).mkdir(parents=True)
    (out / part / "README.md").write_text("ours")
    if part == "text2image":
        with pytest.raises(FileNotFoundError, match="--only vae"):
            build.fit(part, work, out, [])
        vae = build.ROOT / "assets/miniature/text2image/vae"
        LIBRARY.AutoencoderTiny.from_pretrained(vae).save_pretrained(work / "vae")
    at_once = ["--trainer.callbacks=null", "--model.scheduler=null"]  # neither averages nor small first steps
    build.fit(part, work, out, ["--data.train_size=64", "--data.val_size=64", "--trainer.max_epochs=1", *at_once])
    assert (out / part / "README.md").read_text() == "ours"
    assert not list(out.rglob("*.tmp"))
    assert not [file for file in out.rglob("*.json") if str(tmp_path) in file.read_text()]
    assert not [file for file in out.rglob("tokenizer_config.json") if "local_files_only" in file.read_text()]
    if part == "captioner":
        captioner = Captioner(str(out / part))
        captioner.load(torch.device("cpu"))
        return
    fresh = LIBRARY.StableDiffusionPipeline.from_pretrained(work / part / "untrained")
    built = LIBRARY.StableDiffusionPipeline.from_pretrained(out / part)
    for name in ("unet", "text_encoder"):
        pairs = zip(getattr(fresh, name).parameters(), getattr(built, name).parameters(), strict=True)
        assert any(not torch.allclose(old, new, atol=1e-3) for old, new in pairs), name
    assert (out / part / "unet/diffusion_pytorch_model.safetensors").stat().st_size < 6_000_000  # half precision
    assert built(["a red circle on grass"], num_inference_steps=2, output_type="pt").images.shape == (1, 3, 32, 32)
    assert build_text2image.SCHEDULE["prediction_type"] == built.scheduler.config.prediction_type


def test_the_autoencoder_redraws_pictures_that_it_has_not_seen(tmp_path: Path) -> None:
    held_out = balanced(64, HELD_OUT_SEED)
    shipped = build.ROOT / "assets/miniature/text2image/vae"
    vae = LIBRARY.AutoencoderTiny.from_pretrained(shipped)
    quality = build_text2image.reconstruction(vae, held_out)
    assert 24 < quality < 27
    for parameter in vae.decoder.layers[-1].parameters():  # a grey picture
        parameter.data.zero_()
    assert build_text2image.reconstruction(vae, held_out) < 15
    assert build.report("vae", tmp_path, shipped, 64, {}) == {"psnr_db": quality}
