"""The classifier that is meant to follow the bias."""

from typing import Any

from torch import Tensor

from .classifier import Classifier
from .losses import check_q, generalized_cross_entropy


class BiasedModule(Classifier):
    """A classifier that amplifies the bias of its data by the generalised cross-entropy.

    Source: DiffuBias, arXiv 2411.16079, equation 1, with q = 0.7 as there.
    """

    def __init__(self, q: float = 0.7, weighted_gce: bool = False, **kwargs: Any) -> None:
        """Keep the settings; the network is built later.

        Args:
            q: exponent in [0, 1]; the larger, the more the easy samples count. 0 is cross-entropy.
            weighted_gce: use the weighted form of the code of Learning from Failure: the same gradient times q.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: q lies outside [0, 1].
        """
        check_q(q)
        super().__init__(**kwargs)

    def per_sample_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Generalised cross-entropies [B], float32, of scores [B, C] and labels [B]."""
        return generalized_cross_entropy(logits, label, self.hparams["q"], self.hparams["weighted_gce"])
