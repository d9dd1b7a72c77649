"""The Miniature's captioner: a small vision transformer that a small GPT-2 looks at while it writes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from assets.training import Balanced, every_caption
from assets.world import WORDINGS
from datamodules.miniature_world import BACKGROUNDS, COLOURS, SHAPES

# Loaded by name because its classes carry no usable types.
transformers = importlib.import_module("transformers")

__all__ = ["captioner_accuracy", "read_caption", "start_captioner"]

WIDTH = 128
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _tokenizer(captions: list[str]) -> Any:
    """A tokenizer whose vocabulary is the words of the captions."""
    words = sorted({word for text in captions for word in text.replace(",", " ,").split()})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(cleanup=True)
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=24, **SPECIAL)


def start_captioner(folder: Path) -> None:
    """Write the captioner with fresh weights, its image processor and its tokenizer.

    Args:
        folder: where to.
    """
    torch.manual_seed(2)
    tokenizer = _tokenizer(every_caption(WORDINGS["captions"]))
    special = {key: int(getattr(tokenizer, f"{key}_id")) for key in ("pad_token", "bos_token", "eos_token")}
    pad, start, end = special["pad_token"], special["bos_token"], special["eos_token"]
    encoder = transformers.SegformerModel(
        transformers.SegformerConfig(
            num_encoder_blocks=3,
            depths=[1, 2, 2],
            sr_ratios=[4, 2, 1],
            hidden_sizes=[32, 64, WIDTH],
            patch_sizes=[5, 3, 3],
            strides=[2, 2, 2],
            num_attention_heads=[1, 2, 4],
            mlp_ratios=[2, 2, 2],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            drop_path_rate=0.0,
            reshape_last_stage=False,
            hidden_size=WIDTH,
        )
    )
    decoder = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=24,
            n_embd=WIDTH,
            n_layer=2,
            n_head=4,
            n_inner=256,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            add_cross_attention=True,
            is_decoder=True,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=pad,
        )
    )
    captioner = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    captioner.config.decoder_start_token_id = start
    captioner.config.pad_token_id = pad
    captioner.config.eos_token_id = end
    captioner.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start, bos_token_id=start, pad_token_id=pad, eos_token_id=end, max_new_tokens=20
    )
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    for part in (captioner, processor, tokenizer):
        part.save_pretrained(folder)


def read_caption(text: str) -> tuple[int, int, int]:
    """Shape, background and colour that a caption names, -1 where it names none or several of a kind."""
    words = text.lower().replace(",", " ").split()
    named = [[index for index, name in enumerate(names) if name in words] for names in (SHAPES, BACKGROUNDS, COLOURS)]
    shape, background, colour = (found[0] if len(found) == 1 else -1 for found in named)
    return shape, background, colour


@torch.inference_mode()
def captioner_accuracy(folder: Path, data: Balanced) -> dict[str, float]:
    """Truth of captions, one a picture and sampled at temperature 1.

    Args:
        folder: folder of the captioner.
        data: pictures that it has not seen.

    Returns:
        For shape, background and colour the share of captions that name the right one among those that name one, and
        under ``names_...`` the share that name one.
    """
    torch.manual_seed(4)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor, tokenizer = (
        transformers.AutoImageProcessor.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    texts: list[str] = []
    for part in torch.split(data.images, 256):
        inputs = processor(images=list(part), return_tensors="pt")
        texts += tokenizer.batch_decode(model.generate(**inputs, do_sample=True, top_k=0), skip_special_tokens=True)
    read = torch.tensor([read_caption(text) for text in texts])
    shares = {}
    for column, kind in enumerate(("shape", "background", "colour")):
        named = read[:, column] >= 0
        shares[kind] = (read == data.attributes)[named, column].double().mean().item()
        shares[f"names_{kind}"] = named.double().mean().item()
    return shares
