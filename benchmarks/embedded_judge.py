"""The judge of the embedded default, where a model of the CLIP kind would stand for photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from assets.judge import load_judge
from callbacks.synthesis.judge import Judge

FOLDER = Path(__file__).parent.parent / "assets/miniature/judge"


class EmbeddedJudge(Judge):
    """A classifier of shapes that has learnt from pictures of the miniature in which nothing is biased."""

    @torch.inference_mode()
    def agreement(
        self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
    ) -> list[float]:
        """Score a batch of images of 32 x 32 pixels."""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        shapes, _, _ = load_judge(FOLDER)(pixels.float() / 127.5 - 1)
        shares: list[float] = shapes.softmax(dim=1)[range(len(images)), list(labels)].tolist()
        return shares
