"""Train the embedded models of the Miniature again: ``python assets/build.py``.

The parts are the judge, the autoencoder (``vae``), the text-to-image pipeline and the captioner. All of them learn from
one balanced set of pictures whose seeds no data set uses. The last two are fits of ``TextToImage`` and ``CaptionModel``
(``assets/text2image.yaml``, ``assets/captioner.yaml``), to which settings behind ``--`` go. A build that was stopped
goes on with the same command; ``assets/.build`` holds its state and may be deleted. It takes two to three hours of a
CPU core.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from assets.build_captioner import captioner_accuracy, start_captioner
from assets.build_text2image import build_vae, reconstruction, start_text2image
from assets.judge import build_judge, faithfulness, load_judge
from assets.training import HELD_OUT_SEED, Balanced, balanced, refresh
from datamodules.miniature_world import BUILD_SEED, TEMPLATES, Scene, describe

diffusers = importlib.import_module("diffusers")  # its classes carry no usable types

PARTS = ("judge", "vae", "text2image", "captioner")
ROOT = Path(__file__).resolve().parents[1]
PICTURES = 49_152

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


def report_text2image(out: Path, count: int, steps: int, guidance: float, template: str | None) -> dict[str, float]:
    """Draw pictures for captions of random balanced scenes and let the judge look at them.

    Args:
        out: folder of all models.
        count: number of pictures.
        steps: denoising steps.
        guidance: classifier-free guidance as diffusers has it.
        template: what every caption says, see :func:`describe`; None for all of ``TEMPLATES`` in turn.

    Returns:
        Shares of right shapes, backgrounds and colours, and CPU seconds for 1,000 pictures.
    """
    scenes = balanced(count, HELD_OUT_SEED + 1).attributes
    templates = TEMPLATES if template is None else (template,)
    prompts = [describe(Scene(*row), templates[i % len(templates)]) for i, row in enumerate(scenes.tolist())]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out / "text2image")
    pipeline.set_progress_bar_config(disable=True)
    drawn, start = [], time.process_time()
    for first in range(0, count, 64):
        part = prompts[first : first + 64]
        generators = [torch.Generator().manual_seed(HELD_OUT_SEED + first + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
        ).images
        drawn.append(images)
    seconds = (time.process_time() - start) / count * 1000
    images = torch.cat(drawn).mul(255).round().div(127.5).sub(1)
    return {**faithfulness(load_judge(out / "judge"), images, scenes), "cpu_seconds_per_1000": seconds}


def report(part: str, out: Path, vae: Path, count: int, drawing: dict[str, Any]) -> dict[str, float]:
    """Measure one finished part on pictures or captions that its training has not seen."""
    if part == "text2image":
        return report_text2image(out, count, **drawing)
    held_out = balanced(count, HELD_OUT_SEED)
    if part == "captioner":
        return captioner_accuracy(out / "captioner", held_out)
    if part == "judge":
        return faithfulness(load_judge(out / "judge"), held_out.batch(torch.arange(count)), held_out.attributes)
    return {"psnr_db": reconstruction(diffusers.AutoencoderTiny.from_pretrained(vae), held_out)}


def main(arguments: list[str] | None = None) -> None:
    """Build the chosen parts and print their measures as JSON, one line a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="build this part; may be repeated (default: all)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "miniature", help="folder of the models")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".build", help="folder of the state")
    parser.add_argument("--minutes", type=float, default=6.0, help="time to train the judge, and the autoencoder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as PyTorch chooses)")
    parser.add_argument("--fresh", action="store_true", help="forget the state of the chosen parts and begin again")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure what stands in --out")
    parser.add_argument("--count", type=int, default=2048, help="pictures to measure with")
    parser.add_argument("--steps", type=int, default=7, help="denoising steps to measure text2image with")
    parser.add_argument("--guidance", type=float, default=3.0, help="guidance to measure text2image with")
    parser.add_argument("--template", help='captions to measure text2image with, such as "a photo of a {shape}"')
    parser.add_argument("further", nargs="*", help="after --: settings of the fits of text2image and captioner")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)

    work, out = options.work, options.out
    drawing = {"steps": options.steps, "guidance": options.guidance, "template": options.template}
    for part in [part for part in PARTS if part in (options.only or PARTS)]:
        if not options.measure:
            if options.fresh:
                (work / f"{part}.pt").unlink(missing_ok=True)
                shutil.rmtree(work / part, ignore_errors=True)
            if part in ("judge", "vae"):
                learn(part, pictures(work), options.minutes, work, out)
            else:
                fit(part, work, out, options.further)
        vae = out / "text2image" / "vae" if options.measure else work / "vae"
        measured = report(part, out, vae, options.count, drawing)
        figures = {key: round(value, 4) for key, value in measured.items()}
        print(json.dumps({"part": part, "pictures": options.count, **figures}), flush=True)


def learn(part: str, data: Balanced, minutes: float, work: Path, out: Path) -> None:
    """Train the judge or the autoencoder and write it.

    Args:
        part: ``judge`` or ``vae``.
        data: balanced pictures.
        minutes: time to train.
        work: folder of the state.
        out: folder of the models.
    """
    if part == "judge":
        build_judge(data, minutes, work, out / "judge")
    else:
        build_vae(data, minutes, work).save_pretrained(work / "vae")


def fit(part: str, work: Path, out: Path, further: list[str]) -> None:
    """Fit ``TextToImage`` or ``CaptionModel`` from fresh weights, as a user would fit them, and take the result over.

    Args:
        part: ``text2image`` or ``captioner``.
        work: folder of the state.
        out: folder of the models.
        further: settings of the fit.

    Raises:
        FileNotFoundError: if the text-to-image model is to be trained before the autoencoder.
        CalledProcessError: if the fit fails.
    """
    untrained, run_dir = work / part / "untrained", work / part / "run"
    if part == "captioner":
        start_captioner(untrained)
    elif (work / "vae" / "config.json").exists():
        start_text2image(diffusers.AutoencoderTiny.from_pretrained(work / "vae"), untrained)
    else:
        raise FileNotFoundError(f"no autoencoder in {work / 'vae'}: build it first with --only vae")
    words = ["fit", f"--config={ROOT / 'assets' / part}.yaml", f"--model.model={untrained.resolve()}"]
    words += [f"--run_dir={run_dir.resolve()}", *further]
    subprocess.run([sys.executable, ROOT / "train.py", *words], cwd=ROOT, check=True)
    trained = run_dir / "stages/01-model/model"
    (trained / "README.md").unlink(missing_ok=True)  # the embedded model has a card of its own

    def write(folder: Path) -> None:
        if part == "captioner":
            shutil.copytree(trained, folder)
        else:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(trained)
            # diffusers loads half-precision files as float32, transformers as they are: on a CPU the two must agree
            pipeline.vae.half()
            pipeline.unet.half()
            pipeline.save_pretrained(folder)
        _tidy(folder, untrained)

    refresh(out / part, write)


def _tidy(folder: Path, untrained: Path) -> None:
    """Take out of a model what is not of the model: places on this machine, and how its tokenizer was used last."""
    for file in untrained.rglob("tokenizer*.json"):
        shutil.copy(file, folder / file.relative_to(untrained))
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
