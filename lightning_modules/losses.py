"""Losses given per sample, so that callers weight and average them as they need."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .errors import ConfigError

# Under this value expm1(q * log p) / q loses its digits to underflow in fp32 while the limit, CE, is already exact.
_Q_IS_ZERO = 1e-12


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of every sample, computed in fp32 whatever the precision of the logits.

    Args:
        logits: scores [B, C], any floating-point type.
        label: class numbers [B], int64.

    Returns:
        The losses [B] in nats, float32 (float64 for float64 logits).
    """
    return F.cross_entropy(_wide(logits), label, reduction="none")


def generalized_cross_entropy(logits: Tensor, label: Tensor, q: float, weighted: bool = False) -> Tensor:
    """Generalised cross-entropy (1 - p^q) / q of every sample, where p is the probability of its label.

    A large q trusts confident samples more, which makes a classifier follow a bias: the gradient is p^q times that of
    cross-entropy. q = 0 is cross-entropy and q = 1 is 1 - p. Computed as -expm1(q log p) / q from the log-softmax in
    fp32, so that value and gradient stay finite for p -> 0 and for logits in half precision.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
    NeurIPS 2018, equation 6. The weighted form is the one in the public code of "Learning from Failure" (Nam et al.,
    NeurIPS 2020) and of the works built on it.

    Args:
        logits: scores [B, C], any floating-point type.
        label: class numbers [B], int64.
        q: the exponent, in [0, 1].
        weighted: give q * stopgrad(p^q) * CE instead. Its gradient is q times that of the true loss, but its value is
            another: it falls to 0 for the hardest samples, so samples must never be ranked by it, and q = 0 is 0.

    Returns:
        The losses [B], float32 (float64 for float64 logits).

    Raises:
        ConfigError: q lies outside [0, 1].
    """
    check_q(q)
    loss = cross_entropy(logits, label)
    if weighted:
        return q * torch.exp(-q * loss.detach()) * loss
    if q < _Q_IS_ZERO:
        return loss
    return -torch.expm1(-q * loss) / q


def check_q(q: float) -> None:
    """Refuse an exponent of the generalised cross-entropy outside [0, 1].

    Raises:
        ConfigError: q lies outside [0, 1] or is not a number.
    """
    if not 0.0 <= q <= 1.0:
        raise ConfigError(f"q of the generalised cross-entropy must lie in [0, 1], but is {q}: set it to 0.7, say.")


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
