"""The classifier that is trained on the real images and the synthesised ones."""

import math
from typing import Any

import torch
from torch import Tensor

from .classifier import Batch, Classifier
from .errors import ConfigError


class DebiasedModule(Classifier):
    """A classifier trained by cross-entropy on real and synthetic images together.

    Source: DiffuBias, arXiv 2411.16079, section 3; the weight of synthetic images is ours, 1 is the paper's.
    """

    def __init__(self, synthetic_weight: float = 1.0, **kwargs: Any) -> None:
        """Keep the settings; the network is built later.

        Args:
            synthetic_weight: factor of a synthetic image's loss, at least 0; a real image's is 1.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: the weight is negative or not finite.
        """
        if not (math.isfinite(synthetic_weight) and synthetic_weight >= 0):
            raise ConfigError(
                f"model.synthetic_weight must be at least 0, but is {synthetic_weight}: set it to 1, say."
            )
        super().__init__(**kwargs)

    def sample_weights(self, batch: Batch) -> Tensor | None:
        """Factors [B] of the losses, float32: the synthetic weight or 1; None if both are 1."""
        weight = self.hparams["synthetic_weight"]
        if weight == 1.0:
            return None
        return torch.where(batch["synthetic"], weight, 1.0)
