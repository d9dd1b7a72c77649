"""Losses, penalties and augmentations of GANs against values that can be computed by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_modules.gan_augment import augment, cut_out, recolour, translate
from lightning_modules.gan_losses import (
    distance_consistency,
    gradient_penalty,
    hinge_discriminator,
    hinge_generator,
    logistic_discriminator,
    logistic_generator,
    path_lengths,
    similarities,
)

REAL, FAKE = torch.tensor([[2.0], [0.5]]), torch.tensor([[-3.0], [1.0]])


def test_hinge() -> None:
    # real: max(0, 1 - 2), max(0, 1 - 0.5); drawn: max(0, 1 - 3), max(0, 1 + 1)
    assert float(hinge_discriminator(REAL, FAKE)) == pytest.approx((0 + 0.5) / 2 + (0 + 2) / 2)
    assert float(hinge_generator(FAKE)) == pytest.approx((3 - 1) / 2)


def test_logistic() -> None:
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5))) / 2
    expected += (math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 2
    assert float(logistic_discriminator(REAL, FAKE)) == pytest.approx(expected)
    assert float(logistic_generator(FAKE)) == pytest.approx((math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 2)


def test_the_gradient_penalty_of_a_linear_and_of_a_square_score() -> None:
    image = torch.randn(5, 3, 4, 4, requires_grad=True)
    slope = torch.randn(3, 4, 4)
    linear = (image * slope).flatten(1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient_penalty(linear, image), slope.square().sum())
    # the gradient of |x|^2 is 2 x, and that of its square, 4 |x|^2, is 8 x / B
    penalty = gradient_penalty(image.square().flatten(1).sum(dim=1, keepdim=True), image)
    torch.testing.assert_close(penalty, 4 * image.square().flatten(1).sum(dim=1).mean())
    (second,) = torch.autograd.grad(penalty, image)
    torch.testing.assert_close(second, 8 * image.detach() / 5)


def test_path_lengths_of_a_linear_generator() -> None:
    """For x = A w the length is |A^T y|; its expected square is |A|^2 / (H W)."""
    torch.manual_seed(0)
    matrix = torch.randn(3 * 4 * 4, 6)
    style = torch.randn(2000, 2, 6, requires_grad=True)
    image = (style.sum(dim=1) @ matrix.T).view(-1, 3, 4, 4)
    lengths = path_lengths(image, style)
    assert lengths.shape == (2000,)
    # both layers have the same gradient, so the mean over them is that of one
    assert float(lengths.detach().square().mean()) == pytest.approx(float(matrix.square().sum()) / 16, rel=0.1)


def test_similarities_leave_out_the_sample_itself() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    half = 1 / math.sqrt(2)
    expected = torch.tensor([[0.0, half], [0.0, half], [half, half]]).log_softmax(dim=1)
    torch.testing.assert_close(similarities(features), expected)


def test_distance_consistency() -> None:
    torch.manual_seed(0)
    source, other = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    assert float(distance_consistency([source], [source])) == pytest.approx(0, abs=1e-6)
    # neither the size of features nor a common rotation changes who is alike to whom
    assert float(distance_consistency([source], [-3 * source])) == pytest.approx(0, abs=1e-6)
    p, q = similarities(source).exp(), similarities(other).exp()
    by_hand = (q * (q / p).log()).sum(dim=1).mean()
    torch.testing.assert_close(distance_consistency([source, source], [source, other]), by_hand / 2)
    before, after = source.clone().requires_grad_(), other.clone().requires_grad_()
    distance_consistency([before], [after]).backward()  # type: ignore[no-untyped-call]
    assert before.grad is None
    assert after.grad is not None


def test_recolouring() -> None:
    image = torch.tensor([0.2, 0.4, 0.9])[None, :, None, None].repeat(2, 1, 1, 2)
    image[:, :, :, 1] = 0.1
    none = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])
    torch.testing.assert_close(recolour(image, *none), image + torch.tensor([0.0, 0.1])[:, None, None, None])
    grey = recolour(image, torch.zeros(2), torch.tensor([0.0, 2.0]), torch.ones(2))
    torch.testing.assert_close(grey[0, :, 0, 0], torch.full((3,), 0.5))
    torch.testing.assert_close(grey[1, :, 0, 0], torch.tensor([-0.1, 0.3, 1.3]))
    flat = recolour(image, torch.zeros(2), torch.ones(2), torch.tensor([0.0, 1.5]))
    torch.testing.assert_close(flat[0], torch.full((3, 1, 2), 0.3))
    torch.testing.assert_close(flat[1], 0.3 + 1.5 * (image[1] - 0.3))


def test_translation() -> None:
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3).repeat(2, 1, 1, 1)
    moved = translate(image, torch.tensor([1, 0]), torch.tensor([0, -2]))
    torch.testing.assert_close(moved[0, 0], torch.tensor([[0.0, 0, 0], [1, 2, 3], [4, 5, 6]]))
    torch.testing.assert_close(moved[1, 0], torch.tensor([[3.0, 0, 0], [6, 0, 0], [9, 0, 0]]))


def test_cutting_out() -> None:
    image = torch.ones(2, 1, 3, 4)
    cut = cut_out(image, torch.tensor([1, -1]), torch.tensor([2, -1]), 2, 2)
    torch.testing.assert_close(cut[0, 0], torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]))
    torch.testing.assert_close(cut[1, 0], torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]))


def test_gradients_flow_through_the_augmentations_and_images_differ() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16).repeat(40, 1, 1, 1).requires_grad_()
    changed = augment(image, ("color", "translation", "cutout"))
    assert changed.shape == image.shape
    assert len({round(float(own), 4) for own in changed.detach().sum(dim=(1, 2, 3))}) == 40
    (gradient,) = torch.autograd.grad(changed.sum(), image)
    assert (gradient != 0).flatten(1).any(dim=1).all()
    torch.testing.assert_close(augment(image, ()), image)
    shares = 1 - (augment(torch.ones(500, 3, 16, 16), ("cutout",)) > 0).float().mean(dim=(1, 2, 3))
    # a hole of half the side takes a quarter, less where it lies across the border
    assert float(shares.max()) == pytest.approx(0.25)
    assert 1 / 16 - 1e-6 <= float(shares.min()) < 0.1


def test_translations_stay_within_an_eighth() -> None:
    torch.manual_seed(0)
    image = torch.zeros(300, 1, 16, 16)
    image[:, :, 8, 8] = 1
    places = augment(image, ("translation",)).flatten(1).argmax(dim=1)
    rows, columns = places // 16, places % 16
    for own in (rows, columns):
        assert {int(value) for value in own} == {6, 7, 8, 9, 10}


def test_the_gradient_penalty_agrees_with_finite_differences() -> None:
    def score(image: Tensor) -> Tensor:
        return F.softplus(image).square().flatten(1).sum(dim=1)

    image = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    step = 1e-6
    squares = torch.zeros(2, dtype=torch.float64)
    for place in range(4):
        change = torch.zeros(4, dtype=torch.float64)
        change[place] = step
        moved = change.view(1, 1, 2, 2)
        squares += ((score(image + moved) - score(image - moved)) / (2 * step)).detach().square()
    torch.testing.assert_close(gradient_penalty(score(image), image), squares.mean(), rtol=1e-5, atol=1e-6)
