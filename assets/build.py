"""Train the embedded models of the Miniature again: ``python assets/build.py``.

The parts are the judge, the autoencoder (``vae``), the text-to-image pipeline and the captioner. All of them learn from
one balanced set of pictures whose seeds no data set uses. A build that was stopped goes on with the same command;
``assets/.build`` holds its state and may be deleted. With the default times it takes about 90 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import shutil
import sys
import time
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assets.build_captioner import build_captioner, captioner_accuracy
from assets.build_text2image import build_text2image, build_vae
from assets.judge import build_judge, faithfulness, load_judge
from assets.training import HELD_OUT_SEED, Balanced, balanced
from datamodules.miniature_world import BUILD_SEED, TEMPLATES, Scene, describe

diffusers = importlib.import_module("diffusers")  # its classes carry no usable types

PARTS = ("judge", "vae", "text2image", "captioner")
MINUTES = {"judge": 6.0, "vae": 6.0, "text2image": 46.0, "captioner": 29.5}
PICTURES = 49_152
STEPS = 7
GUIDANCE = 3.0

log = logging.getLogger("build")


def pictures(work: Path) -> Balanced:
    """The balanced training pictures, rendered once."""
    file = work / "data.pt"
    if file.exists():
        return Balanced(*torch.load(file, weights_only=True))
    log.info("rendering %d pictures", PICTURES)
    data = balanced(PICTURES, BUILD_SEED)
    work.mkdir(parents=True, exist_ok=True)
    torch.save((data.images, data.attributes), file)
    return data


def report_text2image(out: Path, count: int) -> dict[str, float]:
    """Draw pictures for captions of random balanced scenes and let the judge look at them.

    Args:
        out: folder of all models.
        count: number of pictures.

    Returns:
        Shares of right shapes, backgrounds and colours, and CPU seconds for 1,000 pictures.
    """
    scenes = balanced(count, HELD_OUT_SEED + 1).attributes
    prompts = [describe(Scene(*row), TEMPLATES[i % len(TEMPLATES)]) for i, row in enumerate(scenes.tolist())]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out / "text2image")
    pipeline.set_progress_bar_config(disable=True)
    drawn, start = [], time.process_time()
    for first in range(0, count, 64):
        part = prompts[first : first + 64]
        generators = [torch.Generator().manual_seed(HELD_OUT_SEED + first + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="pt"
        ).images
        drawn.append(images)
    seconds = (time.process_time() - start) / count * 1000
    images = torch.cat(drawn).mul(255).round().div(127.5).sub(1)
    return {**faithfulness(load_judge(out / "judge"), images, scenes), "cpu_seconds_per_1000": seconds}


def report(part: str, out: Path, count: int) -> dict[str, float]:
    """Measure one finished part on pictures or captions that its training has not seen."""
    if part == "text2image":
        return report_text2image(out, count)
    held_out = balanced(count, HELD_OUT_SEED)
    if part == "captioner":
        return captioner_accuracy(out / "captioner", held_out)
    if part == "judge":
        return faithfulness(load_judge(out / "judge"), held_out.batch(torch.arange(count)), held_out.attributes)
    return {}


def main(arguments: list[str] | None = None) -> None:
    """Build the chosen parts and print their measures as JSON, one line a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="build this part; may be repeated (default: all)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "miniature", help="folder of the models")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".build", help="folder of the state")
    parser.add_argument("--minutes", type=float, help="time to train each chosen part (default: from 6 to 46, by part)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as PyTorch chooses)")
    parser.add_argument("--fresh", action="store_true", help="forget the state of the chosen parts and begin again")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure what stands in --out")
    parser.add_argument("--count", type=int, default=2048, help="pictures to measure with")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)

    work, out = options.work, options.out
    for part in [part for part in PARTS if part in (options.only or PARTS)]:
        if not options.measure:
            if options.fresh:
                (work / f"{part}.pt").unlink(missing_ok=True)
                shutil.rmtree(work / part, ignore_errors=True)
            build(part, pictures(work), options.minutes or MINUTES[part], work, out)
        figures = {key: round(value, 4) for key, value in report(part, out, options.count).items()}
        print(json.dumps({"part": part, "pictures": options.count, **figures}), flush=True)


def build(part: str, data: Balanced, minutes: float, work: Path, out: Path) -> None:
    """Train one part and write it.

    Args:
        part: one of :data:`PARTS`.
        data: balanced pictures.
        minutes: time to train.
        work: folder of the state.
        out: folder of the models.

    Raises:
        FileNotFoundError: if the text-to-image model is to be trained before the autoencoder.
    """
    if part == "judge":
        build_judge(data, minutes, work, out / "judge")
    elif part == "vae":
        build_vae(data, minutes, work).save_pretrained(work / "vae")
    elif part == "captioner":
        build_captioner(data, minutes, work, out / "captioner")
    else:
        if not (work / "vae" / "config.json").exists():
            raise FileNotFoundError(f"no autoencoder in {work / 'vae'}: build it first with --only vae")
        vae = diffusers.AutoencoderTiny.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
        build_text2image(data, vae, minutes, work, out / "text2image")


if __name__ == "__main__":
    main()
