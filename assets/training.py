"""What the builds of the embedded models share: balanced pictures of the world and one resumable training loop."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datamodules.miniature_world import BACKGROUNDS, BUILD_SEED, COLOURS, SHAPES, Scene, describe, render

__all__ = ["HELD_OUT_SEED", "Balanced", "Fit", "balanced", "every_caption", "refresh"]

HELD_OUT_SEED = BUILD_SEED + 1_000_000


@dataclass
class Balanced:
    """Pictures in which shape, background and colour are as independent as the world allows.

    Attributes:
        images: uint8 [N, 3, 32, 32].
        attributes: int64 [N, 3], the columns shape, background and colour.
    """

    images: Tensor
    attributes: Tensor

    def batch(self, index: Tensor) -> Tensor:
        """Chosen pictures as float32 [B, 3, 32, 32] in [-1, 1]."""
        return self.images[index].float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def balanced(count: int, seed: int) -> Balanced:
    """Render every pair of shape and background equally often.

    Args:
        count: number of pictures.
        seed: from the reserved range, see :mod:`datamodules.miniature_world`.

    Returns:
        The pictures with what they show.
    """
    pair = np.arange(count) % (len(SHAPES) * len(BACKGROUNDS))
    shapes, backgrounds = pair % len(SHAPES), pair // len(SHAPES)
    pictures, colours = render(shapes, backgrounds, seed)
    attributes = torch.from_numpy(np.stack([shapes, backgrounds, colours], axis=1))
    return Balanced(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), attributes)


def every_caption(templates: Sequence[str]) -> list[str]:
    """Fill every template with every scene, in the order template, shape, background, colour."""
    scenes = product(range(len(SHAPES)), range(len(BACKGROUNDS)), range(len(COLOURS)))
    return [describe(Scene(*scene), template) for template, scene in product(templates, list(scenes))]


@dataclass
class Fit:
    """Train for a given time with AdamW, a cosine and an average of the weights; go on where it stopped.

    The rate follows the time spent and not a count of steps, so that a build takes as long as you allow on any machine.
    An unbroken run with the same number of steps a minute gives the same weights; another machine gives similar ones.

    Attributes:
        name: names the state file and the progress bar.
        model: holds all that is trained.
        loss: makes the loss of one step from a generator of random numbers.
        minutes: time to train, in all.
        lr: highest learning rate.
        work: folder of the state file.
        average: decay of the weight average at the end; it grows from 0.
        export: called with the averaged model on every save and at the end.
        save_every: minutes between two saves.
        seed: seed of the batches.
    """

    name: str
    model: nn.Module
    loss: Callable[[torch.Generator], Tensor]
    minutes: float
    lr: float
    work: Path
    average: float = 0.999
    export: Callable[[nn.Module], None] | None = None
    save_every: float = 3.0
    seed: int = BUILD_SEED

    def run(self) -> int:
        """Train until the time is used up and leave the averaged weights in the model.

        Returns:
            The number of steps.
        """
        state_file = self.work / f"{self.name}.pt"
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
        mean = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        step, spent = 0, 0.0
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            mean, step, spent = state["mean"], state["step"], state["spent"]
        generator = torch.Generator().manual_seed(self.seed + step)
        self.model.train()
        last_save, running = spent, math.nan
        with tqdm(total=round(self.minutes * 60), initial=round(spent), desc=self.name, unit="s") as bar:
            while spent < self.minutes * 60:
                start = time.perf_counter()
                progress = spent / (self.minutes * 60)
                warm = min(1.0, (step + 1) / 200)
                optimizer.param_groups[0]["lr"] = self.lr * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
                loss = self.loss(generator)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                step += 1
                if step % 4 == 0:
                    self._mix(mean, min(self.average, (1 + step) / (20 + step)) ** 4)
                spent += time.perf_counter() - start
                running = loss.item() if math.isnan(running) else 0.99 * running + 0.01 * loss.item()
                bar.update(round(spent) - bar.n)
                bar.set_postfix(step=step, loss=f"{running:.4f}", refresh=False)
                if spent - last_save > self.save_every * 60:
                    last_save = spent
                    self._save(state_file, optimizer, mean, step, spent)
        self._save(state_file, optimizer, mean, step, spent)
        self.model.load_state_dict(mean)
        self.model.eval()
        return step

    def _mix(self, mean: dict[str, Tensor], decay: float) -> None:
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                mean[key].lerp_(value.detach(), 1 - decay)
            else:
                mean[key].copy_(value)

    def _save(
        self, state_file: Path, optimizer: torch.optim.Optimizer, mean: dict[str, Tensor], step: int, spent: float
    ) -> None:
        state_file.parent.mkdir(parents=True, exist_ok=True)
        (state_file.parent / ".gitignore").write_text("*\n")
        state = {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "mean": mean,
            "step": step,
            "spent": spent,
        }
        torch.save(state, state_file.with_suffix(".tmp"))
        os.replace(state_file.with_suffix(".tmp"), state_file)
        if self.export is not None:
            current = {key: value.clone() for key, value in self.model.state_dict().items()}
            self.model.load_state_dict(mean)
            self.model.eval()
            with torch.inference_mode():
                self.export(self.model)
            self.model.load_state_dict(current)
            self.model.train()


def refresh(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a model folder beside the old one and exchange its files, so that a reader finds whole files at any time.

    Args:
        folder: the folder to renew.
        write: writes the new content into the folder that it is given.
    """
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        target = folder / file.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    shutil.rmtree(fresh)
