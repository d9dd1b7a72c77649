"""The Miniature's text-to-image pipeline: its autoencoder, which is trained here, and its untrained diffusion model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio

from assets.training import Balanced, Fit, every_caption
from assets.world import WORDINGS

# Loaded by name because their classes carry no usable types.
diffusers = importlib.import_module("diffusers")
transformers = importlib.import_module("transformers")

__all__ = ["build_vae", "reconstruction", "start_text2image"]

MAX_TOKENS = 16
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,  # what diffusers asks for; trailing steps do not use it
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


@torch.inference_mode()
def reconstruction(vae: Any, data: Balanced) -> float:
    """How near an autoencoder comes to pictures that it has not seen: the peak signal-to-noise ratio in dB."""
    vae.eval()
    pictures = data.batch(torch.arange(len(data.images)))
    drawn = torch.cat([vae.decoder(vae.encoder(part)) for part in torch.split(pictures, 256)])
    return float(peak_signal_noise_ratio(drawn, pictures, data_range=(-1.0, 1.0)))


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
    learner.train_from_iterator(every_caption(list(dict.fromkeys(WORDINGS["prompts"]))), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return transformers.CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def start_text2image(vae: Any, folder: Path) -> None:
    """Write the pipeline with the trained autoencoder and fresh weights elsewhere.

    Args:
        vae: the autoencoder.
        folder: where to.
    """
    torch.manual_seed(1)
    tokenizer = _tokenizer()
    end = int(tokenizer.eos_token_id)
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    # The text enters twice: pooled, as a scale and shift of every block (shapes are learned faster so), and word by
    # word through the cross-attention of the middle block.
    unet = diffusers.UNet2DConditionModel(
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
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DPMSolverMultistepScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
