"""What the networks of StyleGAN2 are made of."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

GROUP = 4  # images whose deviation the discriminator looks at (arXiv 1912.04958, appendix B)
GAIN = math.sqrt(2.0)  # a leaky ReLU with slope 0.2 leaves about half of the variance


def leaky(features: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(features, 0.2) * GAIN


class EqualLinear(nn.Module):
    """A linear layer whose weights are scaled when they are used, so that all learn equally fast.

    Args:
        inputs: features in.
        outputs: features out.
        bias: what the biases begin with.
        rate: learning rate relative to that of other layers.
        active: whether a leaky ReLU follows.

    References:
        Karras et al., Progressive Growing of GANs, arXiv 1710.10196, section 4.1.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0, active: bool = False) -> None:
        """Make the layer with fresh weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate, self.active = rate / math.sqrt(inputs), rate, active

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs] to [B, outputs]."""
        features = F.linear(features, self.weight * self.scale, self.bias * self.rate)
        return leaky(features) if self.active else features


class EqualConv(nn.Module):
    """A convolution with scaled weights, see :class:`EqualLinear`; it may halve the side after blurring.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the kernel, odd.
        halve: whether the side is halved.
        active: whether a bias and a leaky ReLU follow.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, halve: bool = False, active: bool = True) -> None:
        """Make the layer with fresh weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if active else None
        self.scale, self.halve = 1 / math.sqrt(inputs * kernel**2), halve

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W], or to half the side."""
        if self.halve:
            features = blur(features)
        stride = 2 if self.halve else 1
        features = F.conv2d(
            features, self.weight * self.scale, self.bias, stride=stride, padding=self.weight.shape[-1] // 2
        )
        return features if self.bias is None else leaky(features)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style, image by image, and then to unit length.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the kernel, odd.
        style: length W of a style.
        demodulate: whether the weights of each output are brought to unit length.

    References:
        Karras et al., Analyzing and Improving the Image Quality of StyleGAN, arXiv 1912.04958, equations 1 and 3.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True) -> None:
        """Make the layer with fresh weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.to_scale = EqualLinear(style, inputs, bias=1.0)
        self.scale, self.demodulate = 1 / math.sqrt(inputs * kernel**2), demodulate

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Map [B, inputs, H, W] and styles [B, W] to [B, outputs, H, W]."""
        scales = self.to_scale(style)
        weight = self.weight * self.scale
        # scaling what goes in and what comes out is the same as scaling the weights, and one convolution serves all
        features = F.conv2d(features * scales[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return features
        energy = scales.square() @ weight.square().sum(dim=(2, 3)).T
        scaled: Tensor = features * (energy + 1e-8).rsqrt()[:, :, None, None]
        return scaled


class StyledLayer(nn.Module):
    """A modulated convolution with noise, bias and leaky ReLU; it may double the side first.

    Args:
        inputs: channels in.
        outputs: channels out.
        style: length W of a style.
        doubles: whether the side is doubled.
    """

    def __init__(self, inputs: int, outputs: int, style: int, doubles: bool = False) -> None:
        """Make the layer with fresh weights."""
        super().__init__()
        self.convolution = ModulatedConv(inputs, outputs, 3, style)
        self.noise = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.doubles = doubles

    def forward(self, features: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """Map [B, inputs, H, W], styles [B, W] and noise [B, 1, S, S] to [B, outputs, S, S]."""
        if self.doubles:
            features = double(features)
        return leaky(self.convolution(features, style) + self.noise * noise + self.bias)


def blur(features: Tensor) -> Tensor:
    """Blur [B, C, H, W] with the kernel [1, 2, 1] / 4 in both directions, the border repeated."""
    kernel = torch.tensor([0.25, 0.5, 0.25], dtype=features.dtype, device=features.device)
    kernel = (kernel[:, None] * kernel).expand(features.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), kernel, groups=features.shape[1])


def double(features: Tensor) -> Tensor:
    """Double the side of [B, C, H, W], smoothly."""
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


def batch_deviation(features: Tensor, group: int = GROUP) -> Tensor:
    """Add a channel that tells how much the images of a group differ.

    Args:
        features: [B, C, H, W].
        group: images of a group; the whole batch is one if it cannot be divided so.

    Returns:
        Features [B, C + 1, H, W]; the last channel is the standard deviation over the group, mean over all places.

    References:
        Karras et al., Progressive Growing of GANs, arXiv 1710.10196, section 3.
    """
    count = len(features)
    size = group if count % group == 0 else count
    parts = features.view(size, count // size, *features.shape[1:]).float()
    deviation = (parts.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat(size)[:, None, None, None].expand(-1, 1, *features.shape[2:])
    return torch.cat((features, channel.to(features)), dim=1)
