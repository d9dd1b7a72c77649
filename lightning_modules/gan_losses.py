"""What generators and discriminators are trained with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator, from its scores of any shape (Lim & Ye, arXiv 1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """What the generator minimises beside :func:`hinge_discriminator`, from scores of its images."""
    return -fake.mean()


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of a discriminator, from its scores of any shape (Goodfellow et al., arXiv 1406.2661)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_generator(fake: Tensor) -> Tensor:
    """The non-saturating loss beside :func:`logistic_discriminator`, from scores of the generator's images."""
    return F.softplus(-fake).mean()


def gradient_penalty(scores: Tensor, image: Tensor) -> Tensor:
    """Squared length of the gradient of a discriminator's score, mean over the images (R1).

    Args:
        scores: of real images, with the image in the first dimension [B, ...].
        image: the images [B, ...] that require a gradient.

    References:
        Mescheder et al., Which Training Methods for GANs do actually Converge?, arXiv 1801.04406, equation 9, without
        its factor gamma / 2.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def path_lengths(image: Tensor, style: Tensor) -> Tensor:
    """How far a random change of each image reaches back to its style: float [B].

    Args:
        image: drawn images [B, C, H, W].
        style: one style a layer, [B, L, W], that the images were drawn from.

    Returns:
        The length of J^T y, root mean square over the layers, for y normal with variance 1 / (H W).

    References:
        Karras et al., Analyzing and Improving the Image Quality of StyleGAN, arXiv 1912.04958, section 3.2.
    """
    noise = torch.randn_like(image) / (image.shape[2] * image.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((image * noise).sum(), style, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def similarities(features: Tensor) -> Tensor:
    """How alike each sample is to each other one, as log probabilities [N, N - 1].

    Args:
        features: [N, ...].

    Returns:
        Log-softmax over the others of the cosine similarity.
    """
    with torch.autocast(features.device.type, enabled=False):  # the likenesses differ little
        flat = F.normalize(features.float().flatten(1), dim=1)
        cosine = flat @ flat.T
    count = len(cosine)
    others = ~torch.eye(count, dtype=torch.bool, device=cosine.device)
    return cosine[others].view(count, count - 1).log_softmax(dim=1)


def distance_consistency(source: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """How far the likenesses among samples of the adapted generator are from those of the source generator.

    Args:
        source: features [N, ...] of the same N latents in each layer of the source generator.
        target: those of the adapted one.

    Returns:
        Kullback-Leibler divergence KL(adapted || source) of the distributions, mean over samples and layers.

    References:
        Ojha et al., Few-shot Image Generation via Cross-domain Correspondence, arXiv 2104.06820, equation 3.
    """
    layers = [
        F.kl_div(similarities(before.detach()), similarities(after), reduction="batchmean", log_target=True)
        for before, after in zip(source, target, strict=True)
    ]
    return torch.stack(layers).mean()
