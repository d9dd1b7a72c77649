"""Finding the style from which a generator draws an image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .stylegan2_networks import StyleGAN2Generator

RISE, FALL = 0.05, 0.25  # shares of the steps in which the learning rate rises and falls (arXiv 1912.04958, appendix D)


def mean_styles(network: StyleGAN2Generator, samples: int = 1000) -> Tensor:
    """Mean style of each class [C, W], from the same latents in every call."""
    device = next(network.parameters()).device
    latent = torch.randn(samples, network.latent, generator=torch.Generator().manual_seed(0)).to(device)
    classes = range(int(network.settings["num_classes"]))
    with torch.no_grad():
        labels = (torch.full((samples,), label, device=device) for label in classes)
        return torch.stack([network.styles(latent, own).mean(dim=0) for own in labels])


def project(
    network: StyleGAN2Generator, image: Tensor, start: Tensor, noise: list[Tensor], steps: int, lr: float = 0.1
) -> Tensor:
    """Look for the style that draws an image, by gradient descent; each image is looked for by itself.

    Args:
        network: the generator; its weights want no gradient.
        image: what to draw, float [B, 3, S, S] in [-1, 1].
        start: the style to start from, [B, W].
        noise: the noise to draw with, see ``noise_shapes``.
        steps: how many steps of Adam.
        lr: its greatest learning rate.

    Returns:
        Styles [B, W].

    References:
        Karras et al., arXiv 1912.04958, appendix D, for the schedule. That compares images in the features of a
        pretrained network; here in pixels, at full size and at smaller ones, for which nothing is fetched.
    """
    with torch.inference_mode(False), torch.enable_grad():
        style = start.detach().clone().requires_grad_()
        target = pyramid(image.detach().clone())
        optimizer = torch.optim.Adam([style])
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * rate_at(step / steps)
            drawn, _ = network.synthesise(network.spread_style(style), noise)
            optimizer.zero_grad()
            pyramid_error(pyramid(drawn), target).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return style.detach()


def rate_at(done: float) -> float:
    """Factor of the learning rate after a share of the steps: rises in a straight line, falls along a cosine."""
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / FALL))
    return falling * min(1.0, done / RISE) if done else 1e-2 * falling


def pyramid(image: Tensor) -> list[Tensor]:
    """An image [B, 3, S, S] and its means over 2 x 2, 4 x 4, ... pixels, down to a side of 4."""
    levels = [image]
    while levels[-1].shape[-1] > 4:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def pyramid_error(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the levels of two pyramids, summed over the levels: float [B]."""
    errors = [(one - other).square().flatten(1).mean(dim=1) for one, other in zip(first, second, strict=True)]
    return torch.stack(errors).sum(dim=0)
