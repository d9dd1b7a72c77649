"""Drawing N images in batches against calling the pipeline once a prompt, as reference scripts do.

    python -m benchmarks.generation

Both use the miniature's pipeline with the settings of configs/miniature.yaml, the same prompts and the same seeds; the
images are compared pixel by pixel. Models are loaded before the clock starts.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measuring import RESULTS, ROOT, Row, compare, in_turns, report, seconds
from callbacks.synthesis import DiffusersGenerator
from callbacks.synthesis.plan import Prompt
from datamodules.miniature_world import BACKGROUNDS, COLOURS, SHAPES, TEMPLATES, Scene, describe

STEPS = 7
GUIDANCE = 3.0
Images = list[npt.NDArray[np.uint8]]


def make_prompts(count: int) -> list[str]:
    """Captions of the miniature's world, with all shapes, backgrounds and colours."""
    scenes = [Scene(n % len(SHAPES), n // 8 % len(BACKGROUNDS), n // 3 % len(COLOURS)) for n in range(count)]
    return [describe(scene, TEMPLATES[n % len(TEMPLATES)]) for n, scene in enumerate(scenes)]


def main() -> None:
    """Draw the same images in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "assets/miniature/text2image"), help="Folder of the pipeline.")
    parser.add_argument("--images", type=int, default=128, help="Images to draw.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 64], help="Images a batch.")
    parser.add_argument("--rounds", type=int, default=5, help="Times that all images are drawn, in each way.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    from diffusers import DiffusionPipeline

    generator = DiffusersGenerator(arguments.model, steps=STEPS, guidance=GUIDANCE)
    generator.load(torch.device("cpu"))
    loader: Any = DiffusionPipeline
    pipeline = loader.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    prompts, seeds = make_prompts(arguments.images), list(range(arguments.images))
    planned = [Prompt(0, number, prompt) for number, prompt in enumerate(prompts)]
    drawn: dict[int, Images] = {}

    def one_by_one() -> None:
        drawn[1] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            noise = torch.Generator().manual_seed(seed)
            output = pipeline(prompt, generator=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
            drawn[1].append(np.asarray(output.images[0]))

    def batched(size: int) -> None:
        samples = [
            sample
            for start in range(0, len(prompts), size)
            for sample in generator.sample(planned[start : start + size], seeds[start : start + size])
        ]
        drawn[size] = [sample.image for sample in samples if sample.image is not None]

    ways: dict[str, Callable[[], object]] = {"1": one_by_one}
    ways |= {str(size): partial(batched, size) for size in arguments.batch_sizes}
    laps = in_turns(ways, arguments.rounds)
    rows = [Row("one call of the pipeline a prompt", arguments.images / seconds(laps["1"]), "images/s")]
    for size in arguments.batch_sizes:
        factor, spread = compare(laps["1"], laps[str(size)])
        rate = arguments.images / seconds(laps[str(size)])
        rows.append(Row(f"DiffusersGenerator, batches of {size} ({spread})", rate, "images/s", factor, ">= 2"))
        difference = np.abs(np.stack(drawn[size]).astype(int) - np.stack(drawn[1]).astype(int))
        rows.append(Row(f"largest pixel difference, batches of {size}", float(difference.max()), "of 255"))
        rows.append(Row(f"pixels that differ at all, batches of {size}", 100 * float((difference > 0).mean()), "%"))
    report("generation", rows, arguments.folder)


if __name__ == "__main__":
    main()
