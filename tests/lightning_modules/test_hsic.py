import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_modules.hsic import hsic, kernel, median_distance


def draw(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Dependent features [count, 3] and [count, 2], float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, x[:, :2] + 0.5 * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def estimate(x: Tensor, y: Tensor, width_x: Tensor | float = 1.0, width_y: Tensor | float = 1.0) -> Tensor:
    return hsic(kernel(x, width_x), kernel(y, width_y))


def gaussian(a: list[float], b: list[float], width: float) -> float:
    return math.exp(-(math.dist(a, b) ** 2) / (2 * width**2))


@pytest.mark.parametrize("count", [4, 5, 6])
def test_equals_the_mean_over_all_quadruples(count: int) -> None:
    """The definition of the unbiased estimate: the mean of k_ij (l_ij + l_qr - 2 l_iq) over distinct i, j, q, r."""
    x, y = draw(count)
    k = [[gaussian(a, b, 1.3) for b in x.tolist()] for a in x.tolist()]
    m = [[gaussian(a, b, 0.7) for b in y.tolist()] for a in y.tolist()]
    terms = [k[i][j] * (m[i][j] + m[q][r] - 2 * m[i][q]) for i, j, q, r in itertools.permutations(range(count), 4)]
    assert estimate(x, y, 1.3, 0.7).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


@pytest.mark.parametrize(("distance", "width", "across"), [(1.0, 1.0, math.exp(-0.5)), (6.0, 2.0, math.exp(-4.5))])
def test_two_pairs_by_hand(distance: float, width: float, across: float) -> None:
    """Kernel 1 within a pair, a across: ((4 + 8 a^2) + (4 + 8 a)^2 / 6 - 4 (1 + 2 a)^2) / 4."""
    x = torch.tensor([[0.0], [0.0], [distance], [distance]])
    expected = (4 + 8 * across**2 + (4 + 8 * across) ** 2 / 6 - 4 * (1 + 2 * across) ** 2) / 4
    assert estimate(x, x, width, width).item() == pytest.approx(expected, abs=1e-6)


def test_subtracting_the_diagonal_from_every_row_is_the_same() -> None:
    """What the code of ReBias does."""
    for count in (4, 7, 20):
        x, y = draw(count, seed=count)
        k, m = (torch.exp(-(torch.cdist(z, z) ** 2) / 2) for z in (x, y))
        k, m = k - torch.diag(k), m - torch.diag(m)
        total = torch.trace(k @ m) + k.sum() * m.sum() / (count - 1) / (count - 2)
        total -= 2 * k.sum(0).dot(m.sum(0)) / (count - 2)
        torch.testing.assert_close(estimate(x, y), total / (count * (count - 3)))


def test_mean_is_0_for_independent_features_and_above_it_for_dependent_ones() -> None:
    torch.manual_seed(0)
    apart, together = [], []
    for seed in range(1000):
        x, y = draw(6, seed)
        together.append(estimate(x, y))
        apart.append(estimate(x, torch.randn(6, 2, dtype=torch.float64)))
    error = torch.stack(apart).std() / math.sqrt(len(apart))
    assert abs(torch.stack(apart).mean()) < 4 * error
    assert torch.stack(together).mean() > 20 * error


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_is_0_for_batches_without_an_estimate(count: int) -> None:
    x = torch.randn(count, 3, requires_grad=True)
    (estimate(x, torch.randn(count, 2)) + 0 * x.sum()).backward()  # type: ignore[no-untyped-call]
    assert estimate(x, x).item() == 0
    assert x.grad is not None
    assert x.grad.eq(0).all()


def test_gradients_are_those_of_finite_differences() -> None:
    x, y = (features.requires_grad_() for features in draw(5))
    assert torch.autograd.gradcheck(lambda a, b: estimate(a, b, 1.3, 0.7), (x, y))


def test_equal_features_have_gradients() -> None:
    x = torch.zeros(5, 3, requires_grad=True)
    value = estimate(x, torch.randn(5, 3), median_distance(x))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_half_precision_and_autocast_compute_in_single() -> None:
    x, y = (features.bfloat16() for features in draw(16))
    expected = estimate(x.float(), y.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, median = estimate(x, y), median_distance(x)
    assert value.dtype == median.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(median, median_distance(x.float()))


def test_distances_of_far_features_keep_their_digits() -> None:
    x, y = (features.float() for features in draw(16))
    torch.testing.assert_close(estimate(x + 1024, y), estimate(x, y), atol=2e-5, rtol=0)


def test_widths_are_in_units_of_the_features() -> None:
    x, y = draw(8)
    torch.testing.assert_close(estimate(2 * x, 3 * y, 2.0, 3.0), estimate(x, y))


def test_median_is_over_pairs() -> None:
    assert median_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])).item() == pytest.approx(math.sqrt(18))
