"""A small training set, a small classifier and a fast painter, for tests of the synthesis."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from callbacks import SynthesizeCallback
from callbacks.synthesis import (
    BaseCaptioner,
    Captioner,
    DiffusersGenerator,
    Gate,
    Generator,
    LossMiner,
    Sample,
    TextFilter,
)
from callbacks.synthesis import drawing as drawing_module
from callbacks.synthesis.drawing import Drawing
from callbacks.synthesis.files import append_lines
from callbacks.synthesis.plan import Prompt
from callbacks.synthesis.progress import Progress


class ToySet(Dataset[dict[str, Any]]):
    """Noise whose mean brightness tells the class, in 16 x 16 pixels."""

    def __init__(self, count: int, classes: int) -> None:
        rng = np.random.default_rng(7)
        self.labels = torch.arange(count) % classes
        self.biases = torch.where(torch.from_numpy(rng.random(count) < 0.2), (self.labels + 1) % classes, self.labels)
        noise = rng.integers(0, 100, (count, 16, 16, 3))
        self.pixels = (noise + 50 * self.biases.numpy()[:, None, None, None]).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.from_numpy(self.pixels[index]).permute(2, 0, 1).float() / 255 - 0.5,
            "label": self.labels[index],
            "bias": self.biases[index],
            "index": torch.tensor(index),
            "synthetic": torch.tensor(False),
        }


class ToyData(L.LightningDataModule):
    def __init__(self, count: int = 40, classes: int = 2) -> None:
        super().__init__()
        self.set = ToySet(count, classes)
        self.num_classes = classes
        self.synthetic_test = 0.0
        self.class_names = tuple(f"class{number}" for number in range(classes))
        self.bias_names = tuple(f"ground{number}" for number in range(classes))

    @property
    def aligned_bias(self) -> tuple[int, ...]:
        return tuple(range(self.num_classes))

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.set, batch_size=8)

    def mining_dataloader(self, rank: int, world_size: int) -> DataLoader[dict[str, Any]]:
        share = torch.utils.data.Subset(self.set, range(rank, len(self.set), world_size))
        return DataLoader(share, batch_size=8)

    def train_labels(self) -> Tensor:
        return self.set.labels

    def train_biases(self) -> Tensor:
        return self.set.biases

    def source_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.set.pixels[index])


class ToyClassifier(L.LightningModule):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(8, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(image))
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Painter(Generator):
    """Draws noise of the seed; what is wrong with an image may be chosen by words in its prompt."""

    def __init__(self, batch_size: int = 4, kill_at: int | None = None, fail_at: int | None = None) -> None:
        self.batch_size = batch_size
        self._kill_at, self._fail_at = kill_at, fail_at
        self._drawn = 0
        self.size = 8

    def load(self, device: torch.device) -> None:
        pass

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        self._drawn += len(prompts)
        if self._fail_at is not None and self._drawn >= self._fail_at:
            raise ValueError("the brush broke")
        return [self._paint(prompt.caption, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _paint(self, prompt: str, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        if "blank" in prompt:
            return Sample(np.zeros((self.size, self.size, 3), np.uint8))
        # Few colours, so that equal images do occur.
        few = "few" in prompt
        seed = int(rng.integers(0, 6)) if few else seed
        image = np.random.default_rng(seed).integers(0, 255, (self.size, self.size, 3), dtype=np.uint8)
        return Sample(image, unsafe="sometimes" in prompt and seed % 2 == 0)


def planned(count: int = 20, word: str = "dog") -> list[Prompt]:
    return [Prompt(number % 2, number, f"{word} {number}") for number in range(count)]


def draw(folder: Path, painter: Generator, prompts: list[Prompt], gate: Gate | None = None) -> dict[str, int]:
    """Draw a set as the callback does."""
    drawing = Drawing(folder, painter, gate or Gate(), prompts, ["even", "odd"], ["light", "dark"], 5, Progress(False))
    return dict(drawing.run(torch.device("cpu")))


def draw_and_die(folder: Path, count: int, records_before: int) -> None:
    """Draw and kill this process after ``records_before`` chunks: between an image and its record."""
    calls = 0

    def deadly(path: Path, records: list[dict[str, Any]]) -> None:
        nonlocal calls
        if calls == records_before:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        append_lines(path, records)

    vars(drawing_module)["append_lines"] = deadly
    draw(folder, Painter(), planned(count))


def make_callback(captioner: Path, generator: Path, folder: Path, /, **options: Any) -> SynthesizeCallback:
    parts: dict[str, Any] = {
        "miner": LossMiner(),
        "captioner": Captioner(str(captioner), captions_per_image=2, max_new_tokens=5, batch_size=3),
        "text_filter": TextFilter(),
        "generator": DiffusersGenerator(str(generator), revision=None, steps=1, guidance=1.0, batch_size=4),
        "gate": Gate(),
        "images": 7,
        "top_k": 4,
        **options,
    }
    callback = SynthesizeCallback(**parts)
    callback.directory = folder
    return callback


def fit(callback: SynthesizeCallback, root: Path, **options: Any) -> L.Trainer:
    torch.manual_seed(0)
    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=1, callbacks=[callback], accelerator="cpu", devices=1,
        default_root_dir=root, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **{"logger": False, **options},
    )  # fmt: skip
    trainer.fit(ToyClassifier(), ToyData())
    return trainer


class EchoCaptioner(BaseCaptioner):
    """Writes the mean colour and the seed: a captioner without a model."""

    def __init__(self, fail: bool = False) -> None:
        self.captions_per_image = 2
        self.batch_size = 3
        self._fail = fail

    def load(self, device: torch.device) -> None:
        pass

    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        if self._fail:
            raise ValueError("no words")
        return [[f"a dog {seed}" for seed in own] for own in seeds]
