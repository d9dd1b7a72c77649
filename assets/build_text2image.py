"""Training of the Miniature's text-to-image pipeline: an autoencoder first, then a diffusion model on its latents."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from assets.training import Balanced, Fit, every_caption, refresh
from datamodules.miniature_world import BACKGROUNDS, COLOURS, SHAPES, TEMPLATES

# Loaded by name because their classes carry no usable types.
diffusers = importlib.import_module("diffusers")
transformers = importlib.import_module("transformers")

__all__ = ["PROMPTS", "build_text2image", "build_vae"]

MAX_TOKENS = 16
BATCH = 32
NOISE_SHIFT = 1.8
PROMPTS: tuple[str, ...] = (
    *TEMPLATES * 2,
    "a {shape}",
    "a photo of a {shape}",
    "a {shape} on {background}",
    "a photo of a {shape} on {background}",
    "{article} {colour} {shape}",
    "a photo of {article} {colour} {shape}",
    "{colour} {shape} {background}",
    "a photo of {background}",
)
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def build_vae(data: Balanced, minutes: float, work: Path) -> Any:
    """Train the autoencoder: 32 x 32 x 3 to 8 x 8 x 8 and back.

    Args:
        data: balanced pictures.
        minutes: time to train.
        work: folder of the training state.

    Returns:
        The autoencoder, whose scaling factor gives latents of standard deviation 1.
    """
    torch.manual_seed(0)
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=8,
    ).to(memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> Tensor:
        images = data.batch(torch.randint(len(data.images), (32,), generator=generator))
        latents = vae.encoder(images)
        output = vae.decoder(latents + 0.1 * torch.randn(latents.shape, generator=generator))
        edges = sum(functional.l1_loss(output.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
        excess = functional.relu(latents.abs() - 2).square().mean()
        return functional.l1_loss(output, images) + 0.5 * edges + 0.1 * excess

    Fit("vae", vae, loss, minutes, 2e-3, work, average=0.995).run()
    sample = encode(vae, data, range(0, min(len(data.images), 4096)))
    vae.register_to_config(scaling_factor=round(1 / float(sample.std()), 5))
    return vae


@torch.inference_mode()
def encode(vae: Any, data: Balanced, index: Sequence[int]) -> Tensor:
    """Latents, float32 [N, 8, 8, 8], of chosen pictures; not scaled."""
    chunks = torch.split(torch.tensor(list(index)), 256)
    return torch.cat([vae.encoder(data.batch(chunk)) for chunk in chunks])


def _tokenizer() -> Any:
    """A CLIP tokenizer with merges learned on all captions of the world, so that each of its words is one token."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.WhitespaceSplit()])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[*special, *alphabet, *(f"{letter}</w>" for letter in alphabet)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(every_caption(list(dict.fromkeys(PROMPTS))), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return transformers.CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def tokenise_all(tokenizer: Any) -> Tensor:
    """Token ids of every prompt of every scene, int64 [templates, shapes, backgrounds, colours, 16]."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(every_caption(PROMPTS), **options).input_ids
    return torch.as_tensor(ids).view(len(PROMPTS), len(SHAPES), len(BACKGROUNDS), len(COLOURS), MAX_TOKENS)


class TextToLatent(nn.Module):
    """The trained part of the pipeline: text encoder and UNet."""

    def __init__(self, vocabulary: int, end: int) -> None:
        """Make both networks with fresh weights.

        Args:
            vocabulary: number of tokens.
            end: id of the end token.
        """
        super().__init__()
        self.text: Any = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=128,
                bos_token_id=end - 1,
                eos_token_id=end,
                pad_token_id=end,
                attn_implementation="eager",
            )
        )
        # The text enters twice: pooled, as a scale and shift of every block (shapes are learned faster so), and word by
        # word through the cross-attention of the middle block.
        self.unet: Any = diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(64, 112),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
            resnet_time_scale_shift="scale_shift",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )

    def forward(self, noisy: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """Predict v.

        Args:
            noisy: latents, [B, 8, 8, 8].
            time: steps of the schedule, int64 [B].
            tokens: prompts, int64 [B, 16].

        Returns:
            The prediction, [B, 8, 8, 8].
        """
        states = self.text(input_ids=tokens).last_hidden_state
        prediction: Tensor = self.unet(noisy, time, states, return_dict=False)[0]
        return prediction


def build_text2image(data: Balanced, vae: Any, minutes: float, work: Path, out: Path) -> None:
    """Train text encoder and UNet together on the autoencoder's latents and write the pipeline, anew every few minutes.

    Args:
        data: balanced pictures.
        vae: the trained autoencoder.
        minutes: time to train.
        work: folder of the training state.
        out: folder of the pipeline.
    """
    torch.manual_seed(1)
    tokenizer = _tokenizer()
    end = int(tokenizer.eos_token_id)
    prompts = tokenise_all(tokenizer)
    empty = torch.tensor(tokenizer("", padding="max_length", max_length=MAX_TOKENS).input_ids)
    model = TextToLatent(len(tokenizer), end).to(memory_format=torch.channels_last)
    model.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
    latents = encode(vae, data, range(len(data.images))) * vae.config.scaling_factor
    schedule = diffusers.DDPMScheduler(**SCHEDULE)

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(latents), (BATCH,), generator=generator)
        template = torch.randint(len(prompts), (BATCH,), generator=generator)
        shape, background, colour = data.attributes[index].unbind(1)
        tokens = prompts[template, shape, background, colour]
        tokens = torch.where(torch.rand(BATCH, 1, generator=generator) < 0.1, empty, tokens)
        clean = latents[index]
        noise = torch.randn(clean.shape, generator=generator)
        level = torch.rand(BATCH, generator=generator)
        level = NOISE_SHIFT * level / (1 + (NOISE_SHIFT - 1) * level)
        time = (level * 1000).long().clamp(0, 999)
        noisy = schedule.add_noise(clean, noise, time).contiguous(memory_format=torch.channels_last)
        return functional.mse_loss(model(noisy, time, tokens), schedule.get_velocity(clean, noise, time))

    def export(trained: Any) -> None:
        # diffusers loads half-precision files as float32, transformers as they are: on a CPU the two must agree.
        pipeline = diffusers.StableDiffusionPipeline(
            vae=copy.deepcopy(vae).half(),
            text_encoder=trained.text,
            tokenizer=tokenizer,
            unet=copy.deepcopy(trained.unet).half(),
            scheduler=diffusers.DPMSolverMultistepScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        refresh(out, pipeline.save_pretrained)

    Fit("text2image", model, loss, minutes, 1.5e-3, work, average=0.999, export=export).run()
    export(model)
