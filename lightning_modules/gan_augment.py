"""Random changes of real and drawn images alike, through which gradients flow (DiffAugment)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Augmentation = Literal["color", "translation", "cutout"]
SHIFT = 0.125  # greatest shift, as a share of the side
HOLE = 0.5  # side of what is cut out, as a share of the side


def augment(image: Tensor, chosen: Sequence[Augmentation]) -> Tensor:
    """Change every image at random, with the random numbers of its device.

    A discriminator that sees real and drawn images only like this cannot learn a few of them by heart, and what it
    teaches the generator leads to unchanged images.

    Args:
        image: float [B, 3, H, W] in [-1, 1].
        chosen: which changes, in this order.

    Returns:
        Images of the same shape; colours may leave [-1, 1], and what is moved in or cut out is 0.

    References:
        Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, arXiv 2006.10738.
    """
    for name in chosen:
        image = _AUGMENTATIONS[name](image)
    return image


def recolour(image: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast.

    Args:
        image: [B, 3, H, W].
        brightness: what is added to every value [B].
        saturation: by how much the distances of a pixel's channels from their mean grow [B].
        contrast: by how much the distances of all values from the image's mean grow [B].
    """
    brightness, saturation, contrast = (own[:, None, None, None] for own in (brightness, saturation, contrast))
    image = image + brightness
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * saturation
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (image - mean) * contrast


def translate(image: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move images [B, C, H, W] by whole pixels, int64 [B] each; what comes in is 0."""
    count, _, height, width = image.shape
    rows = torch.arange(height, device=image.device) - down[:, None]
    columns = torch.arange(width, device=image.device) - right[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    every = torch.arange(count, device=image.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    moved = image[every, :, rows, columns].permute(0, 3, 1, 2)
    return moved * inside[:, None]


def cut_out(image: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Set a rectangle to 0 in each image [B, C, H, W]; its corner, int64 [B] each, may lie outside."""
    rows = torch.arange(image.shape[2], device=image.device)
    columns = torch.arange(image.shape[3], device=image.device)
    within = (rows >= top[:, None]) & (rows < top[:, None] + height)
    beside = (columns >= left[:, None]) & (columns < left[:, None] + width)
    return image * ~(within[:, :, None] & beside[:, None, :])[:, None]


def _random_colour(image: Tensor) -> Tensor:
    brightness, saturation, contrast = torch.rand(3, len(image), device=image.device)
    return recolour(image, brightness - 0.5, 2 * saturation, contrast + 0.5)


def _random_translation(image: Tensor) -> Tensor:
    down, right = (_integers(image, -round(side * SHIFT), round(side * SHIFT)) for side in image.shape[2:])
    return translate(image, down, right)


def _random_cutout(image: Tensor) -> Tensor:
    sides = [round(side * HOLE) for side in image.shape[2:]]
    # the middle of the hole lies anywhere in the image
    places = [_integers(image, 0, side) - hole // 2 for side, hole in zip(image.shape[2:], sides, strict=True)]
    return cut_out(image, places[0], places[1], sides[0], sides[1])


def _integers(image: Tensor, low: int, high: int) -> Tensor:
    return torch.randint(low, high + 1, (len(image),), device=image.device)


_AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "color": _random_colour,
    "translation": _random_translation,
    "cutout": _random_cutout,
}
