"""A captioner of the miniature that is wrong on purpose."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from callbacks.synthesis import Captioner
from datamodules.miniature_world import SHAPES
from lightning_modules.errors import ConfigError


class WrongCaptions(Captioner):
    """Names another shape in a share of the captions, so that the images drawn from them do not show their label.

    Args:
        share: Probability that a caption is made wrong, in 0..1.
        **kwargs: Arguments of :class:`Captioner`.
    """

    def __init__(self, share: float = 0.3, **kwargs: Any) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"synthesize.captioner.share must lie in 0..1, got {share}")
        super().__init__(**kwargs)
        self.share = share

    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        """Write captions, some of them wrong; which ones depends on their seeds alone."""
        texts = super().caption(images, seeds)
        return [
            [self._spoil(text, seed) for text, seed in zip(row, own, strict=True)]
            for row, own in zip(texts, seeds, strict=True)
        ]

    def _spoil(self, text: str, seed: int) -> str:
        random = np.random.default_rng([seed, 0x77726F6E67])
        named = [shape for shape in SHAPES if shape in text]
        if not named or random.random() >= self.share:
            return text
        return text.replace(named[0], str(random.choice([shape for shape in SHAPES if shape != named[0]])))
