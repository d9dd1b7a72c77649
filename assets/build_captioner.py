"""Training of the Miniature's captioner: a small vision transformer that a small GPT-2 looks at while it writes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional

from assets.training import Balanced, Fit, every_caption, refresh
from datamodules.miniature_world import BACKGROUNDS, COLOURS, SHAPES, TEMPLATES, TERSE

# Loaded by name because its classes carry no usable types.
transformers = importlib.import_module("transformers")

__all__ = ["build_captioner", "captioner_accuracy", "read_caption"]

WIDTH = 128
BATCH = 48
# A third of the captions leave the colour out, a sixth the background.
WORDINGS: tuple[str, ...] = (*TEMPLATES, *TERSE[:2] * 3, *TERSE[2:])
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


class _Learner(nn.Module):
    """The captioner with a classification head on its encoder that speeds up learning and is then thrown away."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
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
        special = {key: int(getattr(tokenizer, f"{key}_id")) for key in ("pad_token", "bos_token", "eos_token")}
        pad, start, end = special["pad_token"], special["bos_token"], special["eos_token"]
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
                attn_implementation="eager",
            )
        )
        self.captioner: Any = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
        self.captioner.config.decoder_start_token_id = start
        self.captioner.config.pad_token_id = pad
        self.captioner.config.eos_token_id = end
        self.captioner.generation_config = transformers.GenerationConfig(
            decoder_start_token_id=start, bos_token_id=start, pad_token_id=pad, eos_token_id=end, max_new_tokens=20
        )
        self.head = nn.Linear(WIDTH, len(SHAPES) + len(BACKGROUNDS) + len(COLOURS))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the captions and logits of the attributes, [B, 3, 8]."""
        states = self.captioner.encoder(images).last_hidden_state
        output = self.captioner(encoder_outputs=(states,), labels=labels)
        return output.loss, self.head(states.mean(1)).unflatten(1, (3, -1))


def read_caption(text: str) -> tuple[int, int, int]:
    """Shape, background and colour that a caption names, -1 where it names none or several of a kind."""
    words = text.lower().replace(",", " ").split()
    named = [[index for index, name in enumerate(names) if name in words] for names in (SHAPES, BACKGROUNDS, COLOURS)]
    shape, background, colour = (found[0] if len(found) == 1 else -1 for found in named)
    return shape, background, colour


def build_captioner(data: Balanced, minutes: float, work: Path, out: Path) -> None:
    """Train the captioner and write it with its image processor and tokenizer, anew every few minutes.

    Args:
        data: balanced pictures.
        minutes: time to train.
        work: folder of the training state.
        out: folder of the model.
    """
    torch.manual_seed(2)
    captions = every_caption(WORDINGS)
    tokenizer = _tokenizer(captions)
    ids = torch.tensor(tokenizer(captions, padding=True).input_ids)
    ids = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    ids = ids.view(len(WORDINGS), len(SHAPES), len(BACKGROUNDS), len(COLOURS), -1)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    learner = _Learner(tokenizer)

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.images), (BATCH,), generator=generator)
        template = torch.randint(len(WORDINGS), (BATCH,), generator=generator)
        attributes = data.attributes[index]
        images = data.batch(index).contiguous()
        images = images + 0.03 * torch.randn(images.shape, generator=generator)
        spoken, named = learner(images, ids[(template, *attributes.unbind(1))])
        total: Tensor = spoken + functional.cross_entropy(named.transpose(1, 2), attributes)
        return total

    def export(trained: Any) -> None:
        def write(folder: Path) -> None:
            trained.captioner.save_pretrained(folder)
            processor.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        refresh(out, write)

    Fit("captioner", learner, loss, minutes, 1.5e-3, work, average=0.998, export=export).run()
    export(learner)


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
