"""How good drawn images are, seen by a classifier of unbiased images: right labels, and the kernel distance (KID)."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics.image.kid import KernelInceptionDistance

from assets.judge import load_judge
from lightning_modules.backbones import build_backbone, scores_and_features

CHUNK = 256


class Judge(Protocol):
    """Names the class of pictures and describes them."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, C] and features [B, D] of pictures uint8 [B, 3, S, S]."""


class EmbeddedJudge:
    """The judge of the embedded default; its classes are the shapes."""

    def __init__(self, folder: Path) -> None:
        """Load it."""
        self.network = load_judge(folder)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, 8] and features [B, 1536] of pictures uint8 [B, 3, 32, 32]."""
        features: Tensor = self.network.body(images.float() / 127.5 - 1)
        return self.network.heads[0](features), features


class FittedJudge:
    """A small ResNet that learns from unbiased pictures.

    Args:
        images: uint8 [N, 3, S, S].
        labels: [N].
        num_classes: Number of classes.
        epochs: How often it sees them.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, epochs: int = 10) -> None:
        """Fit it."""
        torch.manual_seed(0)
        self.num_classes = num_classes
        self.network = build_backbone("smallresnet", num_classes).train()
        optimizer = torch.optim.Adam(self.network.parameters())
        steps = epochs * -(-len(images) // CHUNK)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(images)), CHUNK):
                loss = F.cross_entropy(self.network(images[rows].float() / 127.5 - 1), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, C] and features [B, D] of pictures uint8 [B, 3, S, S]."""
        return scores_and_features(self.network, images.float() / 127.5 - 1, self.num_classes)


class _Features(nn.Module):
    """What a judge sees in pictures, as torchmetrics wants it."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor) -> Tensor:
        return self.judge(images)[1]


def kid(judge: Judge, images: Tensor, reference: Tensor) -> float:
    """Kernel distance of two sets of pictures uint8 [N, 3, S, S], mean over 50 subsets (arXiv 1801.01401)."""
    torch.manual_seed(0)
    size = min(100, len(images), len(reference))
    metric = KernelInceptionDistance(feature=_Features(judge), subsets=50, subset_size=size)
    for pictures, real in ((reference, True), (images, False)):
        for chunk in torch.split(pictures, CHUNK):
            metric.update(chunk, real=real)
    return float(metric.compute()[0])


def right_share(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Share of the pictures uint8 [N, 3, S, S] that show the class of their label [N]."""
    classes = torch.cat([judge(chunk)[0].argmax(dim=1) for chunk in torch.split(images, CHUNK)])
    return float((classes == labels).float().mean())


def read_drawn(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, size, size] and labels [N] of a synthetic set."""
    records = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
    pictures = [Image.open(folder / record["file_name"]).convert("RGB").resize((size, size)) for record in records]
    pixels = torch.from_numpy(np.stack([np.asarray(own) for own in pictures])).permute(0, 3, 1, 2)
    return pixels, torch.tensor([record["label"] for record in records])
