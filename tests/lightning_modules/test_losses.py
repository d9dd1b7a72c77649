import pytest
import torch
from torch import Tensor

from lightning_modules import ConfigError, cross_entropy, generalized_cross_entropy


def logits_of(probability: Tensor) -> Tensor:
    """Two-class scores [B, 2] whose first probability is the given one [B]."""
    return torch.stack((probability.log(), torch.log1p(-probability)), dim=1).requires_grad_()


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


PROBABILITY = torch.linspace(0.05, 0.999, 50)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_value_is_the_formula(q: float) -> None:
    loss = generalized_cross_entropy(logits_of(PROBABILITY.double()), zeros(50), q)
    torch.testing.assert_close(loss, (1 - PROBABILITY.double() ** q) / q)


def test_q_one_is_one_minus_p() -> None:
    torch.testing.assert_close(generalized_cross_entropy(logits_of(PROBABILITY), zeros(50), 1.0), 1 - PROBABILITY)


@pytest.mark.parametrize(("q", "tolerance"), [(1e-4, 1e-3), (1e-6, 1e-4), (1e-10, 1e-6), (1e-30, 0.0), (0.0, 0.0)])
def test_small_q_is_cross_entropy(q: float, tolerance: float) -> None:
    logits = logits_of(PROBABILITY)
    loss = generalized_cross_entropy(logits, zeros(50), q)
    torch.testing.assert_close(loss, cross_entropy(logits, zeros(50)), atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("q", [0.2, 0.7, 1.0])
def test_gradient_is_p_to_the_q_times_that_of_cross_entropy(q: float) -> None:
    logits, plain = logits_of(PROBABILITY), logits_of(PROBABILITY)
    (gradient,) = torch.autograd.grad(generalized_cross_entropy(logits, zeros(50), q).sum(), logits)
    (reference,) = torch.autograd.grad(cross_entropy(plain, zeros(50)).sum(), plain)
    torch.testing.assert_close(gradient, PROBABILITY[:, None] ** q * reference)


def test_weighted_form_has_q_times_the_gradient_and_another_value() -> None:
    logits = logits_of(PROBABILITY)
    true = generalized_cross_entropy(logits, zeros(50), 0.7)
    weighted = generalized_cross_entropy(logits, zeros(50), 0.7, weighted=True)
    (gradient,) = torch.autograd.grad(true.sum(), logits, retain_graph=True)
    (scaled,) = torch.autograd.grad(weighted.sum(), logits)
    torch.testing.assert_close(scaled, 0.7 * gradient)
    torch.testing.assert_close(weighted, 0.7 * PROBABILITY**0.7 * -PROBABILITY.log())
    hardest = generalized_cross_entropy(torch.tensor([[-60.0, 60.0]]), zeros(1), 0.7, weighted=True)
    assert hardest.item() < weighted.max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("q", [0.0, 1e-8, 0.7, 1.0])
def test_finite_for_vanishing_p_in_every_precision(dtype: torch.dtype, weighted: bool, q: float) -> None:
    logits = torch.tensor([[-3e4, 3e4, 0.0]], dtype=dtype, requires_grad=True)
    loss = generalized_cross_entropy(logits, zeros(1), q, weighted)
    assert loss.shape == (1,)
    assert loss.dtype == torch.float32
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_certain_samples_lose_nothing() -> None:
    loss = generalized_cross_entropy(torch.tensor([[100.0, -100.0]]), zeros(1), 0.7)
    assert loss.item() == 0.0


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    label = torch.arange(64) % 10
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = generalized_cross_entropy(logits, label, 0.7)
    torch.testing.assert_close(loss, generalized_cross_entropy(logits.float(), label, 0.7))


def test_order_is_that_of_cross_entropy() -> None:
    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(1)).double()
    label = torch.arange(500) % 5
    by_gce = generalized_cross_entropy(logits, label, 0.7).topk(50).indices
    assert by_gce.tolist() == cross_entropy(logits, label).topk(50).indices.tolist()


@pytest.mark.parametrize("q", [-0.1, 1.5, float("nan")])
def test_q_outside_is_refused(q: float) -> None:
    with pytest.raises(ConfigError, match=r"^q .*\[0, 1\].*set it"):
        generalized_cross_entropy(torch.zeros(1, 2), zeros(1), q)
