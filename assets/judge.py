"""A small classifier of shape, background and colour, and the measure of faithfulness that it serves."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from assets.training import Balanced, Fit
from datamodules.miniature_world import BACKGROUNDS, COLOURS, SHAPES

__all__ = ["Judge", "build_judge", "faithfulness", "load_judge"]

WEIGHTS = "model.safetensors"


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the picture."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, D, H / 2, W / 2]."""
        return functional.relu(self.second(self.first(features)) + self.shortcut(features))


class Judge(nn.Module):
    """Names shape, background and colour of a picture, 0.3 M parameters."""

    def __init__(self) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            _Block(24, 48),
            _Block(48, 96),
            _Block(96, 96),
            nn.Flatten(),
        )
        self.heads = nn.ModuleList(nn.Linear(96 * 16, len(names)) for names in (SHAPES, BACKGROUNDS, COLOURS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge pictures.

        Args:
            images: float32 [B, 3, 32, 32] in [-1, 1].

        Returns:
            Logits of shape, background and colour, each [B, 8].
        """
        features = self.body(images)
        shape, background, colour = (head(features) for head in self.heads)
        return shape, background, colour


def load_judge(folder: str | Path) -> Judge:
    """Load the judge, ready to use.

    Args:
        folder: the folder that holds ``model.safetensors``, for example ``assets/miniature/judge``.

    Returns:
        The judge in evaluation mode.
    """
    judge = Judge()
    weights = {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(Path(folder) / WEIGHTS).items()
    }
    judge.load_state_dict(weights)
    return judge.eval()


@torch.inference_mode()
def faithfulness(judge: Judge, images: Tensor, attributes: Tensor) -> dict[str, float]:
    """Share of pictures that show what they should.

    Args:
        judge: the trained judge.
        images: float32 [N, 3, 32, 32] in [-1, 1].
        attributes: int64 [N, 3], the columns shape, background and colour; -1 where anything will do.

    Returns:
        Shares between 0 and 1 under ``shape``, ``background`` and ``colour``; NaN where nothing was asked for.
    """
    named = [torch.stack([head.argmax(1) for head in judge(chunk)], dim=1) for chunk in torch.split(images, 256)]
    right = torch.cat(named) == attributes
    names = ("shape", "background", "colour")
    return {name: right[attributes[:, k] >= 0, k].double().mean().item() for k, name in enumerate(names)}


def build_judge(data: Balanced, minutes: float, work: Path, out: Path) -> Judge:
    """Train the judge on real pictures, balanced over shape and background.

    Args:
        data: balanced pictures.
        minutes: time to train.
        work: folder of the training state.
        out: folder of the weights.

    Returns:
        The trained judge.
    """
    torch.manual_seed(3)
    judge = Judge().to(memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.images), (64,), generator=generator)
        images = data.batch(index)
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
        logits = judge(images)
        return torch.stack(
            [functional.cross_entropy(head, data.attributes[index, k]) for k, head in enumerate(logits)]
        ).sum()

    Fit("judge", judge, loss, minutes, 2e-3, work, average=0.995).run()
    out.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, out / WEIGHTS)
    return load_judge(out)
