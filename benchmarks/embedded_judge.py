"""The judge of the embedded default, where a model of the CLIP kind would stand for photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from assets.judge import load_judge
from callbacks.synthesis.judge import Judge
from datamodules.miniature_world import SHAPES
from lightning_modules.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "assets/miniature/judge"


class EmbeddedJudge(Judge):
    """A classifier of shapes that has learnt from pictures of the miniature in which nothing is biased."""

    def check(self, class_names: Sequence[str]) -> None:
        """Refuse classes that it has not learnt.

        Raises:
            ConfigError: The classes are others, or in another order.
        """
        if tuple(class_names) != SHAPES:
            raise ConfigError(f"synthesize.gate.judge: it knows {', '.join(SHAPES)} in this order; take ZeroShotJudge")

    @torch.inference_mode()
    def agreement(
        self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
    ) -> list[float]:
        """Score a batch of images of 32 x 32 pixels."""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        shapes, _, _ = load_judge(FOLDER)(pixels.float() / 127.5 - 1)
        shares: list[float] = shapes.softmax(dim=1)[range(len(images)), list(labels)].tolist()
        return shares
