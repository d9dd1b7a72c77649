"""Tiny models of the real classes, with random weights, saved as the hub's repositories are."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a", "photo", "of", "the", "man", "woman", "boat", "dog", "cat", "tree", "house", "water", "grass", "sand", "red",
    "blue", "green", "big", "small", "on", "in", "under", "near", "climbing", "diving", "fishing", "racing", "throwing",
    "vaulting", "street", "river", "rock", "sky", "snow", "sun", "image", "shows", "holding",
    # names of classes and bias attributes that configurations teach
    "bricks", "circle", "cross", "heart", "lava", "moon", "ring", "square", "star", "triangle", "wood",
    "headshot", "young", "old", "male", "female",
]  # fmt: skip
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : "
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
TEXT_ONLY_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ' ' + message['content'] | trim + ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def _module(name: str) -> Any:
    """Import a library whose classes carry no types."""
    return importlib.import_module(name)


def _vocabulary(special: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate([*special, *WORDS])}


def word_tokenizer(
    chat_template: str | None = None, max_length: int = 256, further: dict[str, str] | None = None
) -> Any:
    """Return a tokenizer of whole words with <s>, </s>, <pad>, <unk> and <image>, which puts <s> in front.

    Args:
        chat_template: Its template.
        max_length: Most tokens of a text.
        further: Further special tokens by the names that a processor knows them by.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    hf = _module("transformers")

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *(further or {}).values()]
    inner = Tokenizer(WordLevel(_vocabulary(special), unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=special[4:],
        **({"extra_special_tokens": {"image_token": "<image>", **further}} if further else {}),
        model_max_length=max_length,
        chat_template=chat_template,
    )


def clip_tokenizer(folder: Path, max_length: int = 16) -> Any:
    """Return a CLIP tokenizer over single letters, so that long words fill it quickly."""
    hf = _module("transformers")

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return hf.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=max_length, pad_token="<|endoftext|>"
    )


def clip_text_config(max_length: int = 16, hidden: int = 32, **more: Any) -> Any:
    """Return the configuration of a tiny CLIP text encoder for :func:`clip_tokenizer`."""
    hf = _module("transformers")

    return hf.CLIPTextConfig(
        vocab_size=54, hidden_size=hidden, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
        max_position_embeddings=max_length, bos_token_id=52, eos_token_id=53, pad_token_id=53, **more,
    )  # fmt: skip


def _vae(latent_channels: int = 4, **more: Any) -> Any:
    sd = _module("diffusers")

    return sd.AutoencoderKL(
        block_out_channels=[8, 8], in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=latent_channels, norm_num_groups=4, sample_size=32,
        **more,
    )  # fmt: skip


def save_stable_diffusion(folder: Path, channels: int = 8, safety_checker: Any = None) -> Path:
    """Save a Stable Diffusion 1 pipeline that draws 32 x 32 pixels."""
    sd = _module("diffusers")
    hf = _module("transformers")

    torch.manual_seed(0)
    unet = sd.UNet2DConditionModel(
        block_out_channels=(channels, 2 * channels), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    pipeline = sd.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=hf.CLIPTextModel(clip_text_config()),
        tokenizer=clip_tokenizer(folder / "raw"),
        unet=unet,
        scheduler=sd.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=safety_checker,
        feature_extractor=hf.CLIPImageProcessor(size=32, crop_size=32) if safety_checker is not None else None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """Save a Stable Diffusion XL pipeline with its two text encoders."""
    sd = _module("diffusers")
    hf = _module("transformers")

    torch.manual_seed(0)
    unet = sd.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
        cross_attention_dim=64, norm_num_groups=4,
    )  # fmt: skip
    pipeline = sd.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=hf.CLIPTextModel(clip_text_config(projection_dim=32)),
        text_encoder_2=hf.CLIPTextModelWithProjection(clip_text_config(projection_dim=32)),
        tokenizer=clip_tokenizer(folder / "raw"),
        tokenizer_2=clip_tokenizer(folder / "raw"),
        unet=unet,
        scheduler=sd.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )
    pipeline.save_pretrained(folder)
    return folder


def t5_encoder(hidden: int = 32) -> tuple[Any, Any]:
    """Return a T5 encoder and its tokenizer of whole words."""
    hf = _module("transformers")

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"\u2581{word}", -2.0) for word in WORDS)]
    tokenizer: Any = hf.T5Tokenizer(vocab=vocabulary, extra_ids=0, additional_special_tokens=None, model_max_length=64)
    config = hf.T5Config(
        vocab_size=len(tokenizer), d_model=hidden, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return hf.T5EncoderModel(config), tokenizer


def save_pixart(folder: Path) -> Path:
    """Save a PixArt-alpha pipeline: a diffusion transformer with a T5 encoder."""
    sd = _module("diffusers")

    torch.manual_seed(0)
    encoder, tokenizer = t5_encoder()
    transformer = sd.PixArtTransformer2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        use_additional_conditions=False,
    )  # fmt: skip
    sd.PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=_vae(), transformer=transformer, scheduler=sd.DDIMScheduler()
    ).save_pretrained(folder)
    return folder


def save_stable_diffusion_3(folder: Path) -> Path:
    """Save a Stable Diffusion 3 pipeline with its three text encoders."""
    sd = _module("diffusers")
    hf = _module("transformers")

    torch.manual_seed(0)
    transformer = sd.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    t5, t5_tokenizer = t5_encoder(64)
    pipeline = sd.StableDiffusion3Pipeline(
        transformer=transformer,
        vae=_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=hf.CLIPTextModelWithProjection(clip_text_config(projection_dim=32)),
        text_encoder_2=hf.CLIPTextModelWithProjection(clip_text_config(projection_dim=32)),
        text_encoder_3=t5,
        tokenizer=clip_tokenizer(folder / "raw"),
        tokenizer_2=clip_tokenizer(folder / "raw"),
        tokenizer_3=t5_tokenizer,
        scheduler=sd.FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(folder)
    return folder


def _clip_vision_config(size: int = 32) -> Any:
    hf = _module("transformers")

    return hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=size,
        patch_size=16, projection_dim=32,
    )  # fmt: skip


def safety_checker() -> Any:
    """Return a safety checker with random weights; set ``concept_embeds_weights`` to choose what it flags."""
    parts = _module("diffusers.pipelines.stable_diffusion")
    hf = _module("transformers")

    torch.manual_seed(0)
    vision = _clip_vision_config().to_dict()
    checker: Any = parts.StableDiffusionSafetyChecker(hf.CLIPConfig(vision_config=vision, projection_dim=32))
    return checker


def save_llava(folder: Path, template: str = LLAVA_TEMPLATE, old_processor: bool = False) -> Path:
    """Save a LLaVA model of CLIP and Llama.

    Args:
        folder: Where to.
        template: Chat template of the processor.
        old_processor: Like older repositories: the template in the tokenizer only, no patch size in the processor.
    """
    hf = _module("transformers")

    torch.manual_seed(0)
    tokenizer = word_tokenizer(template if old_processor else None)
    text = hf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model: Any = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=_clip_vision_config(), text_config=text, image_token_index=4, image_token_id=4,
            vision_feature_layer=-1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = 2
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    if old_processor:
        tokenizer.save_pretrained(folder)
        images.save_pretrained(folder)
    else:
        hf.LlavaProcessor(
            images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=template,
            num_additional_image_tokens=1,
        ).save_pretrained(folder)  # fmt: skip
    return folder


def save_gemma_3(folder: Path) -> Path:
    """Save a Gemma 3 model, whose processor takes a flat list for the pictures of one text."""
    hf = _module("transformers")

    torch.manual_seed(0)
    template = LLAVA_TEMPLATE.replace("<image>", "<start_of_image>")
    tokenizer = word_tokenizer(template, further={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"})
    part = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = hf.Gemma3TextConfig(
        **part, vocab_size=len(tokenizer), num_key_value_heads=4, head_dim=8, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    config = hf.Gemma3Config(
        text_config=text.to_dict(), mm_tokens_per_image=4,
        vision_config={**part, "image_size": 32, "patch_size": 8, "vision_use_head": False},
        image_token_index=4, image_token_id=4, boi_token_index=5, eoi_token_index=6, eos_token_id=2,
    )  # fmt: skip
    model: Any = hf.Gemma3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    images = hf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    hf.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """Save a BLIP captioner; as on the hub, its tokenizer lacks the token that it begins to write after."""
    hf = _module("transformers")

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    tokenizer: Any = hf.BertTokenizer(str(folder / "vocab.txt"))
    text = hf.BlipTextConfig(
        vocab_size=len(tokenizer) + 2, hidden_size=32, encoder_hidden_size=32, intermediate_size=37,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, bos_token_id=len(tokenizer),
        eos_token_id=3, sep_token_id=3,
        pad_token_id=0, projection_dim=32,
    )  # fmt: skip
    vision = hf.BlipVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16,
        projection_dim=32,
    )  # fmt: skip
    config = hf.BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)
    model: Any = hf.BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    hf.BlipProcessor(hf.BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_blip_2(folder: Path) -> Path:
    """Save a BLIP-2 captioner, whose processor writes its query tokens before every text."""
    hf = _module("transformers")

    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    part = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = hf.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=37, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = hf.Blip2Config(
        vision_config={**part, "image_size": 32, "patch_size": 16},
        qformer_config={**part, "vocab_size": 50, "encoder_hidden_size": 32}, text_config=text.to_dict(),
        num_query_tokens=4, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model: Any = hf.Blip2ForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    hf.Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_vision_encoder_decoder(folder: Path) -> Path:
    """Save a ViT + GPT-2 captioner with its image processor and tokenizer side by side, without a processor."""
    hf = _module("transformers")

    torch.manual_seed(0)
    tokenizer = word_tokenizer(max_length=32)
    encoder: Any = hf.ViTModel(
        hf.ViTConfig(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32,
                     patch_size=8)
    )  # fmt: skip
    decoder: Any = hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4,
                      add_cross_attention=True, bos_token_id=1, eos_token_id=2)
    )  # fmt: skip
    model: Any = hf.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.bos_token_id = 1, 1
        config.eos_token_id, config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
