"""The Hilbert-Schmidt independence criterion: how much two sets of features tell of each other."""

import torch
from torch import Tensor

# Features that are all the same have no distance to take as a width.
_LEAST_WIDTH = 1e-6


def hsic(k: Tensor, m: Tensor) -> Tensor:
    """Unbiased estimate of the HSIC of two features from their kernel matrices.

    With kernel matrices K and L whose diagonals are 0 it is::

        (tr(K L) + (1'K 1) (1'L 1) / ((B - 1) (B - 2)) - 2 / (B - 2) 1'K L 1) / (B (B - 3))

    and 0 for fewer than 4 samples, of which there is no estimate. Its mean is 0 for independent features, so that
    single values may be negative.

    The code of ReBias subtracts the diagonal from every row in place of setting it to 0. The value is the same, since a
    constant added to all entries beside the diagonal cancels.

    Source: Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, as used by ReBias (Bahng et al.,
    arXiv 1910.02806).

    Args:
        k: kernel matrix [B, B] of one feature, see :func:`kernel`.
        m: that of the other feature of the same samples.

    Returns:
        The estimate, a scalar float32 (float64 for float64 kernels), under autocast as well.
    """
    count = len(k)
    if count < 4:
        return torch.zeros((), device=k.device)
    with torch.autocast(k.device.type, enabled=False):
        sums_k, sums_m = k.sum(dim=0), m.sum(dim=0)
        total = (k * m).sum() + sums_k.sum() * sums_m.sum() / ((count - 1) * (count - 2))
        return (total - 2 / (count - 2) * sums_k @ sums_m) / (count * (count - 3))


def kernel(x: Tensor, width: Tensor | float) -> Tensor:
    """Gaussian kernel matrix of features, with a diagonal of 0.

    Args:
        x: features [B, D].
        width: standard deviation of the kernel, in units of x.

    Returns:
        Values [B, B] in [0, 1], float32 (float64 for float64 features).
    """
    with torch.autocast(x.device.type, enabled=False):
        # Products of large features would lose the digits of small distances in fp32, and in TF32 above all.
        exact = x.float() if x.device.type == "mps" else x.double()
        exact = exact - exact.detach().mean(dim=0)
        squares = exact.square().sum(dim=1)
        distance = (squares[:, None] + squares - 2 * exact @ exact.T).clamp_min(0)
        values = torch.exp(-distance.to(_wide(x).dtype) / (2 * width**2))
        return values * (1 - torch.eye(len(x), device=x.device, dtype=values.dtype))


@torch.no_grad()
def median_distance(x: Tensor) -> Tensor:
    """Median Euclidean distance, a positive scalar, of all pairs of at least 2 features [B, D]."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.pdist(_wide(x)).median().clamp_min(_LEAST_WIDTH)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
