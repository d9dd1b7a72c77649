import json
from pathlib import Path
from typing import Any

import diffusers
import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from callbacks import StageCallback
from callbacks.synthesis import DiffusersGenerator
from callbacks.synthesis.plan import Prompt
from lightning_modules import ClassDiffusion, ConfigError, TextToImage
from lightning_modules.generative import find_texts
from lightning_modules.text_to_image import with_captions
from tests import tiny_models
from tests.chain import ROOT
from tests.datamodules.toy import NAMES, Described, Pictures, Unlabelled
from tests.fitting import make_trainer
from tests.generators import write_selection

LIBRARY: Any = diffusers
pytestmark = pytest.mark.filterwarnings("ignore")


class Keep(L.Callback):
    """Writes a checkpoint after every epoch: at the end of a fit averaged weights have taken the place of the last."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def fitted(
    model: Path, folder: Path, epochs: int = 1, resume: Path | None = None, averaged: bool = False, **settings: Any
) -> TextToImage:
    L.seed_everything(1, verbose=False)
    module = TextToImage(str(model), **{"lr": 1e-3, **settings})
    callbacks = [StageCallback(folder, 5), Keep(), *[EMAWeightAveraging(decay=0.9)] * averaged]
    trainer = make_trainer(folder, epochs, callbacks=callbacks)
    trainer.fit(module, datamodule=Pictures(), ckpt_path=resume, weights_only=True)
    return module


def weights(module: TextToImage) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def original(model: Path) -> Any:
    return LIBRARY.UNet2DConditionModel.from_pretrained(model, subfolder="unet")


@pytest.mark.parametrize(("rank", "trained"), [(None, "all"), (2, "lora"), (None, "text too")])
def test_only_what_should_be_trained_is_and_is_saved(
    stable_diffusion: Path, tmp_path: Path, rank: int | None, trained: str
) -> None:
    with_text = trained == "text too"
    module = fitted(stable_diffusion, tmp_path, lora_rank=rank, train_text_encoder=with_text)
    first = {f"unet.{name}": value for name, value in original(stable_diffusion).named_parameters()}
    if with_text:
        encoder = LIBRARY.StableDiffusionPipeline.from_pretrained(stable_diffusion).text_encoder
        first |= {f"text_encoder.{name}": value for name, value in encoder.named_parameters()}
    own = weights(module)
    before = {name: first.get(name.replace(".base_layer", "")) for name in own}  # peft moves what it leaves alone
    changed = {n for n, value in own.items() if (old := before[n]) is None or not torch.equal(value, old)}
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    if trained != "lora":
        assert changed == first.keys() == saved.keys()
    else:
        assert changed
        assert all("lora_" in name for name in changed)
        assert changed == saved.keys()
        assert sum(value.numel() for value in saved.values()) < 0.5 * sum(value.numel() for value in first.values())


def test_the_loss_is_the_error_of_the_noise_given_the_text(stable_diffusion: Path, tmp_path: Path) -> None:
    module = TextToImage(str(stable_diffusion))
    module.configure_model()
    pipeline = LIBRARY.StableDiffusionPipeline.from_pretrained(stable_diffusion)
    latents, texts = torch.randn(3, 4, 16, 16), ["a", "a photo of a b", ""]
    loss = module._loss(latents, texts, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise, time = torch.randn(latents.shape, generator=generator), torch.randint(1000, (3,), generator=generator)
    noisy = LIBRARY.DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(latents, noise, time)
    states, _ = pipeline.encode_prompt(texts, "cpu", 1, False)
    expected = (pipeline.unet(noisy, time, states).sample - noise).square().mean()
    torch.testing.assert_close(loss, expected)
    assert not torch.isclose(loss, module._loss(latents, ["b"] * 3, torch.Generator().manual_seed(3)))


def test_v_prediction_is_taken_from_the_pipeline(stable_diffusion: Path, tmp_path: Path) -> None:
    pipeline = LIBRARY.StableDiffusionPipeline.from_pretrained(stable_diffusion)
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    pipeline.save_pretrained(tmp_path / "v")
    losses = []
    for folder in (stable_diffusion, tmp_path / "v"):
        module = TextToImage(str(folder))
        losses.append(module._loss(torch.randn(1, 4, 16, 16), ["a"], torch.Generator().manual_seed(0)).item())
    assert losses[0] != pytest.approx(losses[1])


def test_the_embedded_pipeline_with_its_tiny_autoencoder_learns(tmp_path: Path) -> None:
    model = ROOT / "assets/miniature/text2image"
    module = fitted(model, tmp_path, lora_rank=2)
    image = torch.rand(2, 3, 32, 32)
    pipeline = LIBRARY.StableDiffusionPipeline.from_pretrained(model)
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    with torch.no_grad():
        expected = pipeline.vae.encode(image * 2 - 1).latents * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(module._latents({"image": (image - mean) / std}), expected)


def test_mined_images_have_their_captions_and_others_their_texts_or_the_template(tmp_path: Path) -> None:
    data = Pictures()
    data.setup("fit")
    data.synthetic_dir = tmp_path
    template = "a photo of a {class} on {bias}"
    bias = data.train_biases()[1]
    plain = find_texts(data, "train", [template])
    assert plain[1] == [f"a photo of a a on {data.bias_names[bias]}"]
    assert with_captions(plain, data) == plain
    captions = {1: ["a dog", " ", "the dog"], 2: [""]}
    items = [{"index": index, "label": 0, "captions": own} for index, own in captions.items()]
    (tmp_path / "captions.json").write_text(json.dumps({"items": items}))
    texts = with_captions(plain, data)
    assert texts[1] == ["a dog", "the dog"]
    assert texts[2] == plain[2]
    assert len(texts) == 34
    unlabelled = Unlabelled()
    unlabelled.setup("fit")
    assert find_texts(unlabelled, "train", ["a {bias} {class}"])[0] == [f"a {NAMES[0]}"]
    described = Described()
    described.setup("fit")
    for split in ("train", "val"):
        labels = described.split_labels(split)[0].tolist()
        texts = find_texts(described, split, ["the {class}"])
        for row, (label, own) in enumerate(zip(labels, texts, strict=True)):
            assert own == described.expected(split, row) or own == [f"the {NAMES[label]}"]
        assert {len(own) for own in texts} == {1, 2}


def test_an_image_learns_its_own_text_or_none(stable_diffusion: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Listener(TextToImage):
        def _encode(self, texts: Any) -> Tensor:
            if self.training:
                seen.append(list(texts))
            return super()._encode(texts)

    data = Pictures()
    data.setup("fit")
    data.synthetic_dir = tmp_path
    items = [{"index": index, "label": 0, "captions": [f"{index} x", f"{index} y"]} for index in range(34)]
    (tmp_path / "captions.json").write_text(json.dumps({"items": items}))
    rows: list[int] = []

    class Rows(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
            rows.extend(batch["index"].tolist())

    module = Listener(str(stable_diffusion), text_dropout=0.3)
    make_trainer(tmp_path, 4, callbacks=[Rows()], limit_val_batches=0).fit(module, datamodule=data)
    pairs = list(zip(rows, [text for own in seen for text in own], strict=True))
    assert len(pairs) == 136
    assert all(text in ("", f"{row} x", f"{row} y") for row, text in pairs)
    assert 0.15 < sum(text == "" for _, text in pairs) / 136 < 0.45
    assert {text[-1] for _, text in pairs if text} == {"x", "y"}


def test_the_stage_may_learn_from_the_mined_images_alone(stable_diffusion: Path, tmp_path: Path) -> None:
    write_selection(tmp_path, [3, 5, 30])
    data = Pictures()
    data.synthetic_dir, data.source = tmp_path, "mined"
    data.setup("fit")
    index = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert sorted(index.tolist()) == [3, 5, 30]
    make_trainer(tmp_path).fit(TextToImage(str(stable_diffusion)), datamodule=data)
    data.synthetic_dir = None
    with pytest.raises(ConfigError, match="data: mined"):
        data.train_dataloader()


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_rank": 2},
        {"train_text_encoder": True, "averaged": True},
        pytest.param({"lora_rank": 2, "averaged": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_broken_off_fit_goes_on_as_if_it_had_not_been(
    stable_diffusion: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = fitted(stable_diffusion, tmp_path / "whole", 2, **settings)
    fitted(stable_diffusion, tmp_path / "half", 1, **settings)
    (tmp_path / "half" / "fit_done").unlink()
    rest = fitted(stable_diffusion, tmp_path / "half", 2, tmp_path / "half" / "end.ckpt", **settings)
    # opened once more after its end, as after a kill while its images were drawn
    again = fitted(stable_diffusion, tmp_path / "half", 2, tmp_path / "half" / "end.ckpt", **settings)
    for (name, first), *others in zip(
        weights(whole).items(), weights(rest).values(), weights(again).values(), strict=True
    ):
        assert all(torch.equal(first, own) for own in others), name


def drawn(folder: Path, generator: DiffusersGenerator) -> Any:
    generator.load(torch.device("cpu"))
    (sample,) = generator.sample([Prompt(0, 0, "a photo of a a")], [7])
    assert sample.image is not None
    return sample.image.astype(int)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_generator_draws_with_the_fine_tuned_pipeline(
    stable_diffusion: Path, tmp_path: Path, rank: int | None
) -> None:
    module = fitted(stable_diffusion, tmp_path, 2, lora_rank=rank, lr=0.03)
    data = Pictures()
    data.setup("fit")
    before = DiffusersGenerator(str(stable_diffusion), steps=2, guidance=1.0)
    after = DiffusersGenerator(str(stable_diffusion), steps=2, guidance=1.0)
    assert after.fingerprint() == ""
    DiffusersGenerator("./nowhere").check(module, data)  # it will be made
    after.learn_from(module, data, tmp_path / "model")
    assert after.describe()["generator"] == f"{stable_diffusion}, fine-tuned ({after.fingerprint()})"
    assert np.abs(drawn(tmp_path, before) - drawn(tmp_path, after)).max() > 3
    plain = LIBRARY.StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert not any("lora" in name for name, _ in plain.unet.named_parameters())
    image = plain(
        "a photo of a a", num_inference_steps=2, guidance_scale=1.0, generator=torch.Generator("cpu").manual_seed(7)
    ).images[0]
    assert np.abs(np.asarray(image).astype(int) - drawn(tmp_path, after)).max() <= 1
    assert "fine-tuned by diffubias" in (tmp_path / "model" / "README.md").read_text()
    assert not list((tmp_path / "model").rglob("*.bin"))


def test_another_module_leaves_the_generator_alone(stable_diffusion: Path, tmp_path: Path) -> None:
    generator = DiffusersGenerator(str(stable_diffusion))
    generator.learn_from(ClassDiffusion(), Pictures(), tmp_path / "model")
    assert generator.describe()["generator"] == str(stable_diffusion)
    assert not (tmp_path / "model").exists()


def test_half_precision_weights_are_refused(stable_diffusion: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, precision="bf16-true")
    for module in (TextToImage(str(stable_diffusion)), ClassDiffusion(size=16, channels=(8,), attention=(False,))):
        with pytest.raises(ConfigError, match=r"trainer\.precision=bf16-true"):
            trainer.fit(module, datamodule=Pictures())


def test_mistakes_are_named(stable_diffusion: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"diffusion\.lora_rank"):
        TextToImage("m", lora_rank=0)
    with pytest.raises(ConfigError, match=r"diffusion\.train_text_encoder"):
        TextToImage("m", lora_rank=2, train_text_encoder=True)
    with pytest.raises(ConfigError, match=r"diffusion\.text_dropout"):
        TextToImage("m", text_dropout=1.0)
    with pytest.raises(ConfigError, match=r"diffusion\.model: no folder"):
        TextToImage("./nowhere").check(Pictures())
    TextToImage(str(stable_diffusion)).check(Pictures())
    with pytest.raises(ConfigError, match=r"diffusion\.model: StableDiffusionXLPipeline is not of the kind"):
        TextToImage(str(tiny_models.save_stable_diffusion_xl(tmp_path / "xl"))).configure_model()
    data = Pictures()
    data.source = "both"
    with pytest.raises(ConfigError, match="data must be real or mined"):
        TextToImage(str(stable_diffusion)).check_fit(data)
    fitted(stable_diffusion, tmp_path)
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    with pytest.raises(ConfigError, match=r"diffusion\.lora_rank None, but this run 2"):
        TextToImage(str(stable_diffusion), lora_rank=2).on_load_checkpoint(content)
