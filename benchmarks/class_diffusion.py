"""ClassDiffusion under Lightning against a plain diffusers loop, and ClassGenerator against one image a call.

    python -m benchmarks.class_diffusion
    python -m benchmarks.class_diffusion --device cuda

Same U-Net of [48, 96] channels, noise schedule, optimizer, batches and moving average; 64 images of 16 pixels a batch,
float32. The plain loop is that of diffusers' own examples, with its EMAModel.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch.nn import functional

from benchmarks.measuring import RESULTS, Row, compare, in_turns, name_on, report, seconds
from benchmarks.training_step import train_in_turns
from callbacks.synthesis import ClassGenerator
from callbacks.synthesis.plan import Prompt
from datamodules import Miniature
from lightning_modules import ClassDiffusion

SIZE, CLASSES = 16, 8
LIBRARY: Any = diffusers


def make_module() -> ClassDiffusion:
    """Build a small diffusion model for the classes of the miniature."""
    torch.manual_seed(0)
    module = ClassDiffusion(
        num_classes=CLASSES, size=SIZE, channels=(48, 96), attention=(False, True), layers_per_block=1, lr=1e-3,
        grid_images=0,
    )  # fmt: skip
    module.configure_model()
    return module


def plain_loop(data: Miniature, device: torch.device) -> Callable[[int], None]:
    """Return a function that trains the same network for one epoch with diffusers alone."""
    unet: Any = make_module().to(device).unet
    average: Any = EMAModel(unet.parameters(), decay=0.9999)
    schedule = LIBRARY.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-4)
    loader: Any = data.train_dataloader()

    def epoch(number: int) -> None:
        loader.sampler.set_epoch(number)
        unet.train()
        for batch in loader:
            # the set is normalised by 0.5 and 0.5: its range is that of the model
            image = batch["image"].to(device)
            image = functional.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True)
            noise = torch.randn_like(image)
            time = torch.randint(1000, (len(image),), device=device)
            dropped = torch.rand(len(image), device=device) < 0.1
            label = torch.where(dropped, CLASSES, batch["label"].to(device))
            noisy = schedule.add_noise(image, noise, time)
            loss = functional.mse_loss(unet(noisy, time, label).sample, noise)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            average.step(unet.parameters())

    return epoch


def measure_training(images: int, rounds: int, device: torch.device) -> list[Row]:
    """Epochs of both in turns."""
    data = Miniature(train_size=images, seed=1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), augment="flip")
    data.setup("fit")
    steps = len(data.train_dataloader())
    lightning, plain = train_in_turns(make_module(), plain_loop(data, device), rounds, device.type, datamodule=data)
    ratio, spread = compare(lightning, plain)
    return [
        Row("plain diffusers loop", 1e3 * seconds(plain) / steps, "ms a step"),
        Row(f"ClassDiffusion ({spread})", 1e3 * seconds(lightning) / steps, "ms a step", ratio, "<= 1.05"),
    ]


def measure_drawing(folder: Path, images: int, sizes: list[int], rounds: int, device: torch.device) -> list[Row]:
    """All images one by one and in batches, in turns."""
    make_module().export(folder / "model", Miniature())
    generator = ClassGenerator(folder / "model", steps=25)
    generator.load(device)
    prompts, seeds = [Prompt(number % CLASSES, -1, "") for number in range(images)], list(range(images))
    drawn: dict[int, list[Any]] = {}

    def draw(size: int) -> None:
        drawn[size] = [
            sample.image
            for start in range(0, images, size)
            for sample in generator.sample(prompts[start : start + size], seeds[start : start + size])
        ]

    laps = in_turns({str(size): partial(draw, size) for size in (1, *sizes)}, rounds)
    rows = [Row("one image a call", images / seconds(laps["1"]), "images/s")]
    for size in sizes:
        factor, spread = compare(laps["1"], laps[str(size)])
        rows.append(Row(f"batches of {size} ({spread})", images / seconds(laps[str(size)]), "images/s", factor, ">= 2"))
        difference = np.abs(np.stack(drawn[size]).astype(int) - np.stack(drawn[1]).astype(int)).max()
        rows.append(Row(f"largest pixel difference, batches of {size}", float(difference), "of 255"))
    return rows


def main() -> None:
    """Measure training and drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="Epochs of each; drawings of each a third of it.")
    parser.add_argument("--images", type=int, default=640, help="Images an epoch; an eighth of them are drawn.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 64], help="Images a batch when drawing.")
    parser.add_argument("--device", default="cpu", help="Where to compute; the result of a GPU has a file of its own.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    rows = measure_training(arguments.images, arguments.rounds + 1, device)
    with tempfile.TemporaryDirectory() as folder:
        count = max(arguments.batch_sizes[-1], arguments.images // 8)
        rows += measure_drawing(Path(folder), count, arguments.batch_sizes, max(1, arguments.rounds // 3), device)
    report(name_on("class_diffusion", device), rows, arguments.folder)


if __name__ == "__main__":
    main()
