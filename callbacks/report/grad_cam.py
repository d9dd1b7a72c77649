"""Where a classifier looks: Grad-CAM (Selvaraju et al., ICCV 2017), through captum."""

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.report.missing import NothingToShowError

ALPHA = 0.5


def find_layer(network: nn.Module, image: Tensor) -> nn.Module:
    """Find the last part of a network with convolutions whose output is a map; in a ResNet that is ``layer4``.

    Args:
        network: From images to scores.
        image: A batch [1, 3, H, W] to try it with.

    Raises:
        NothingToShowError: The network has no such part, or layers of attention after it.
    """
    if any(isinstance(part, nn.MultiheadAttention) or "Attention" in type(part).__name__ for part in network.modules()):
        raise NothingToShowError("Grad-CAM asks for a map of convolutions at the end; this network is a transformer.")
    found: list[tuple[nn.Module, Tensor]] = []

    def keep(part: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append((part, output))

    parts = [part for part in network.modules() if any(isinstance(own, nn.Conv2d) for own in part.modules())]
    handles = [part.register_forward_hook(keep) for part in parts if part is not network]
    try:
        with torch.enable_grad():  # of an image, as the weights may be frozen
            scores = network(image.detach().clone().requires_grad_())
            # DisEnt, for one, has a second network whose maps the scores do not learn from
            maps = [output for _, output in found]
            gradients = torch.autograd.grad(scores.sum(), maps, allow_unused=True) if maps else ()
    finally:
        for handle in handles:
            handle.remove()
    used = [part for (part, _), gradient in zip(found, gradients, strict=True) if gradient is not None]
    if not used:
        raise NothingToShowError("Grad-CAM asks for layers that keep the places of an image; this network has none.")
    return used[-1]


def grad_cam(network: nn.Module, images: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Map what speaks for the predicted class.

    Args:
        network: From images to scores, in evaluation mode.
        images: Normalised images [B, 3, H, W] on its device.

    Returns:
        Maps float32 [B, H, W] in 0..1: ReLU of the weighted sum of the feature maps, each divided by its maximum and
        all 0 where nothing speaks for the class; and the predicted classes, int64 [B].

    Raises:
        NothingToShowError: See :func:`find_layer`.
    """
    layer = find_layer(network, images[:1])
    images = images.detach().clone().requires_grad_()  # a network whose weights are frozen has gradients too
    with torch.enable_grad():
        with torch.no_grad():
            predicted = network(images).argmax(dim=1)
        found = LayerGradCam(network, layer).attribute(images, target=predicted, relu_attributions=True)
    maps = LayerAttribution.interpolate(found.detach(), images.shape[2:], "bilinear")[:, 0].float()
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    scaled = torch.where(peaks > 0, maps / peaks.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return scaled.cpu().numpy(), predicted.cpu().numpy()


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a map [H, W] in 0..1 over an image uint8 [H, W, 3], each half visible."""
    colour = colormaps["turbo"](heat)[..., :3] * 255
    return np.asarray((1 - ALPHA) * image + ALPHA * colour).round().astype(np.uint8)
