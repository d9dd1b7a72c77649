"""Parts of a chain that work as their parents do, until an environment variable has them fail at a chosen point.

``DIFFUBIAS_FAULT`` is "action place number [rank]", for example "kill draw 2": the process kills itself at the second
call of the generator. Since the variable is no setting, the same command line finishes what a fault broke off.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from PIL import Image

from callbacks.synthesis import (
    Captioner,
    ClassGenerator,
    DiffusersGenerator,
    GANGenerator,
    Gate,
    Sample,
    Translator,
)
from callbacks.synthesis.plan import Prompt

VARIABLE = "DIFFUBIAS_FAULT"
_visits: Counter[str] = Counter()


def visit(place: str) -> None:
    """Count a visit to ``place``, and fail if it is the one that was chosen."""
    _visits[place] += 1
    action, chosen, number, *rank = (os.environ.get(VARIABLE) or "none none 0").split()
    if chosen != place or _visits[place] != int(number) or (rank and rank[0] != os.environ.get("LOCAL_RANK", "0")):
        return
    print(f"fault at {time.time()}", file=sys.stderr, flush=True)
    if action == "raise":
        raise ValueError(f"broken on purpose at {place}")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}[action])
    time.sleep(5)  # a signal that Python handles comes while it sleeps


class FaultyCallback(pl.Callback):
    """Visits ``STAGE-fit`` at every training batch and ``STAGE-test`` before the test."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        visit(f"{pl_module.stage_name}-fit")

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        visit(f"{pl_module.stage_name}-test")


class FaultyCaptioner(Captioner):
    """Visits ``caption`` before every batch."""

    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        visit("caption")
        return super().caption(images, seeds)


class FaultyGenerator(DiffusersGenerator):
    """Visits ``draw`` before every batch."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        visit("draw")
        return super().sample(prompts, seeds)


class FaultyClassGenerator(ClassGenerator):
    """Visits ``draw`` before every batch."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        visit("draw")
        return super().sample(prompts, seeds)


class FaultyGANGenerator(GANGenerator):
    """Visits ``draw`` before every batch."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        visit("draw")
        return super().sample(prompts, seeds)


class FaultyTranslator(Translator):
    """Visits ``draw`` before every batch."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        visit("draw")
        return super().sample(prompts, seeds)


class FaultyGate(Gate):
    """Visits ``judge`` before every image: from the second of a batch on, after the one before it was written."""

    def check(self, sample: Sample, size: tuple[int, int] | None = None) -> str | None:
        visit("judge")
        return super().check(sample, size)
