"""Speed and memory of Stable Diffusion 1.5 and LLaVA-Llama-3-8B at full size, with random weights, on a GPU.

    python -m benchmarks.full_size                             on a GPU: images/s, texts/s, peak memory
    python -m benchmarks.full_size --meta                      anywhere: parameters and size of the weights
    python -m benchmarks.full_size --scale tiny --device cpu   the same path with small copies of the architectures

Nothing is downloaded: the models are built from their configurations, saved (20 GB) and loaded by DiffusersGenerator
and Captioner as the released ones would be. Speed and memory do not depend on the weights, with one exception: random
weights never end a caption, so every text has all its tokens and a trained model is faster than this.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.measuring import RESULTS, Row, report
from callbacks.synthesis import Captioner, DiffusersGenerator
from callbacks.synthesis.plan import Prompt
from tests.tiny_models import LLAVA_TEMPLATE, clip_tokenizer, word_tokenizer

PROMPT = "A man is climbing a steep rock above the sea while a small boat passes below him"


def diffusion_parts(tiny: bool) -> dict[str, nn.Module]:
    """Build the networks of Stable Diffusion 1.5 (github.com/CompVis/stable-diffusion), or narrow copies of them."""
    import diffusers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

    width, side, text_width = (32, 8, 64) if tiny else (320, 64, 768)
    vae_widths = (32, 32, 64, 64) if tiny else (128, 256, 512, 512)
    untyped: Any = diffusers
    unet = untyped.UNet2DConditionModel(
        sample_size=side, block_out_channels=(width, 2 * width, 4 * width, 4 * width), cross_attention_dim=text_width,
        attention_head_dim=8,
    )  # fmt: skip
    vae = untyped.AutoencoderKL(
        block_out_channels=vae_widths, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=8 * side,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=text_width, intermediate_size=4 * text_width, num_hidden_layers=12,
        num_attention_heads=12 if not tiny else 4, max_position_embeddings=77, projection_dim=text_width,
        bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    vision = CLIPVisionConfig(**_vision(tiny, 224), projection_dim=768)
    checker: Any = StableDiffusionSafetyChecker
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": CLIPTextModel(text),
        "safety_checker": checker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=768)),
    }


def _vision(tiny: bool, size: int) -> dict[str, Any]:
    """CLIP ViT-L/14."""
    width, layers = (64, 2) if tiny else (1024, 24)
    return {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 16,
        "image_size": size, "patch_size": 14,
    }  # fmt: skip


def llava(tiny: bool) -> nn.Module:
    """Build the network of xtuner/llava-llama-3-8b-v1_1-transformers, or a narrow copy of it."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    width, layers = (64, 2) if tiny else (4096, 32)
    text = LlamaConfig(
        vocab_size=128320, hidden_size=width, intermediate_size=width * 7 // 2, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, rms_norm_eps=1e-5,
    )  # fmt: skip
    model: Any = LlavaForConditionalGeneration
    kind: Any = LlavaConfig
    config = kind(
        vision_config=CLIPVisionConfig(**_vision(tiny, 336), projection_dim=768), text_config=text, image_token_index=4,
        image_token_id=4, vision_feature_layer=-2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network: nn.Module = model(config)
    return network


def save_diffusion(folder: Path, tiny: bool) -> None:
    """Save the pipeline as the hub's repository is, with a tokenizer of letters in the place of the real one."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPImageProcessor

    kind: Any = StableDiffusionPipeline
    scheduler: Any = PNDMScheduler
    pipeline = kind(
        **diffusion_parts(tiny),
        tokenizer=clip_tokenizer(folder / "raw", max_length=77),
        scheduler=scheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        feature_extractor=CLIPImageProcessor(size=224, crop_size=224),
    )
    pipeline.save_pretrained(folder)


def save_llava(folder: Path, tiny: bool) -> None:
    """Save the captioner with its processor, with a tokenizer of a few words in the place of the real one."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    model: Any = llava(tiny)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor: Any = LlavaProcessor
    processor(
        images, word_tokenizer(max_length=8192), patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip


def built(save: Callable[[Path, bool], None], folder: Path, tiny: bool, device: torch.device) -> None:
    """Build a model on the device in bfloat16 and save it."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            save(folder, tiny)
    finally:
        torch.set_default_dtype(default)


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Run work and return its seconds and the peak memory of the device, or of the process on the CPU, in GiB."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return seconds, peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_generator(folder: Path, arguments: argparse.Namespace, device: torch.device) -> list[Row]:
    """Images/s and peak memory for each batch size."""
    generator = DiffusersGenerator(str(folder), steps=arguments.steps)
    rows = [Row("Stable Diffusion 1.5: loading", timed(partial(generator.load, device), device)[0], "s")]
    first: float | None = None
    for size in arguments.batch_sizes:
        draw = partial(generator.sample, [Prompt(0, -1, PROMPT)] * size, range(size))
        draw()  # chooses the kernels
        seconds, peak = timed(draw, device)
        first = first or size / seconds
        rows.append(Row(f"Stable Diffusion 1.5: batches of {size}", size / seconds, "images/s", size / seconds / first))
        rows.append(Row(f"Stable Diffusion 1.5: peak memory, batches of {size}", peak, "GiB"))
    generator.release()
    return rows


def measure_captioner(folder: Path, arguments: argparse.Namespace, device: torch.device) -> list[Row]:
    """Texts/s and peak memory for one text a call, and for three texts of each image of a batch."""
    rows: list[Row] = []
    first: float | None = None
    for size, texts in ((1, 1), *((size, 3) for size in arguments.batch_sizes)):
        captioner = Captioner(str(folder), captions_per_image=texts, max_new_tokens=arguments.tokens)
        seconds, _ = timed(partial(captioner.load, device), device)
        images = [Image.new("RGB", (640, 480), (40 * n % 256, 90, 160)) for n in range(size)]
        seeds = [[texts * n + k for k in range(texts)] for n in range(size)]
        if not rows:
            rows.append(Row("LLaVA-Llama-3-8B: loading", seconds, "s"))
        write = partial(captioner.caption, images, seeds)
        write()
        seconds, peak = timed(write, device)
        captioner.release()
        rate = size * texts / seconds
        first = first or rate
        rows.append(Row(f"LLaVA-Llama-3-8B: {texts} texts of {size} images a call", rate, "texts/s", rate / first))
        rows.append(Row(f"LLaVA-Llama-3-8B: peak memory, {texts} texts of {size} images", peak, "GiB"))
    return rows


def weights(tiny: bool) -> list[Row]:
    """Count parameters, without memory for them."""
    with torch.device("meta"):
        networks = {"Stable Diffusion 1.5": diffusion_parts(tiny), "LLaVA-Llama-3-8B": {"": llava(tiny)}}
    rows: list[Row] = []
    for name, parts in networks.items():
        counts = {part: sum(p.numel() for p in network.parameters()) for part, network in parts.items()}
        counts = counts if len(counts) == 1 else {**counts, "in all": sum(counts.values())}
        for part, count in counts.items():
            rows.append(Row(f"{name} {part}".strip(), count / 1e6, "M parameters"))
            rows.append(Row(f"{name} {part}".strip() + ": weights in bfloat16", 2 * count / 2**30, "GiB"))
    return rows


def main() -> None:
    """Measure, or count parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta", action="store_true", help="Count parameters on the meta device and stop.")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full", help="Size of the architectures.")
    parser.add_argument("--device", default="cuda", help="Where to compute.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32], help="Images a batch.")
    parser.add_argument("--steps", type=int, default=50, help="Denoising steps.")
    parser.add_argument("--tokens", type=int, default=60, help="Tokens of a text.")
    parser.add_argument("--work", type=Path, default=None, help="Where the models are saved; a temporary folder.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    device, tiny = torch.device(arguments.device), arguments.scale == "tiny"
    if arguments.meta:
        report("full_size_weights", weights(tiny), arguments.folder)
        return
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: take a machine with one, or --meta, or --scale tiny --device cpu", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder = Path(temporary)
        rows: list[Row] = []
        for name, save, measure in (
            ("diffusion", save_diffusion, measure_generator),
            ("llava", save_llava, measure_captioner),
        ):
            built(save, folder / name, tiny, device)
            rows += measure(folder / name, arguments, device)
    report("full_size" if not tiny else "full_size_tiny", rows, arguments.folder)


if __name__ == "__main__":
    main()
