"""Small networks that torchvision lacks, as the code of the field's papers has them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .errors import ConfigError


class MLP(nn.Module):
    """A multi-layer perceptron for coloured digits.

    Hidden layers 100, 100, 16 are those of DisEnt (arXiv 2107.01372) and BiasEnsemble (arXiv 2205.14594), 100, 100, 100
    those of LfF (arXiv 2007.02561). Their code divides images that lie in [0, 1] by 255 once more, which is why their
    learning rate of 0.01 is so large; the published figures are of this scale.
    """

    def __init__(
        self,
        num_classes: int,
        hidden: Sequence[int] = (100, 100, 16),
        image_size: int = 28,
        divide_by_255: bool = True,
    ) -> None:
        """Build it with random weights.

        Args:
            num_classes: number of classes C.
            hidden: widths of the hidden layers; the last is the width of the features.
            image_size: side of the images, in pixels.
            divide_by_255: divide the input by 255, as the reference code does.
        """
        super().__init__()
        widths = [3 * image_size**2, *hidden]
        self.scale = 1 / 255 if divide_by_255 else 1.0
        layers = [(nn.Linear(a, b), nn.ReLU(inplace=True)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(part for pair in layers for part in pair))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, S, S]."""
        # The pixels are taken in the order in which they lie in memory: any fixed order is the same network.
        scores: Tensor = self.head(self.layers(image.permute(0, 2, 3, 1).flatten(1) * self.scale))
        return scores


class ResNet20(nn.Module):
    """The residual network with 20 layers for 32-pixel images (He et al., CVPR 2016, section 4.2), as LfF uses it.

    Three groups of three blocks with 16, 32 and 64 channels; shortcuts without parameters.
    """

    def __init__(self, num_classes: int) -> None:
        """Build it for num_classes classes, with random weights."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(_PlainBlock(a, b) for a, b in pairwise(widths)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, H, W]."""
        scores: Tensor = self.head(self.pool(self.blocks(self.stem(image))).flatten(1))
        return scores


class _PlainBlock(nn.Module):
    """Two 3x3 convolutions; where the width grows, the shortcut takes every second pixel and pads channels with 0."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.stride = 1 if width_in == width_out else 2
        self.padding = (width_out - width_in) // 2
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride=self.stride, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.body(x) + skip)


class SmallResNet(nn.Module):
    """A 3x3 stem and three residual blocks of 32, 64 and 128 channels, for images of about 32 pixels.

    The stem has stride 1 and no pooling and every block halves the side, so that 32 pixels end as 4 x 4 features.
    """

    def __init__(self, num_classes: int) -> None:
        """Build it for num_classes classes, with random weights."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(_Block(32, 32), _Block(32, 64), _Block(64, 128))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, H, W]."""
        features: Tensor = self.pool(self.blocks(self.stem(image))).flatten(1)
        scores: Tensor = self.head(features)
        return scores


class _Block(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, beside a 1x1 convolution (He et al., CVPR 2016)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.skip = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride=2, bias=False), nn.BatchNorm2d(width_out))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.body(x) + self.skip(x))
        return y


class SimpleConv(nn.Module):
    """Stacked convolutions of one size, for the digits of ReBias (Bahng et al., arXiv 1910.02806).

    Each is followed by batch norm and ReLU and keeps the side; global average pooling and a linear layer end it. Theirs
    have kernels of 7 pixels for the network to be debiased, and of 1 pixel, which sees colours but no shapes, for the
    biased one.
    """

    def __init__(
        self, num_classes: int, channels: Sequence[int] = (16, 32, 64, 128), kernel_size: int = 7, stride: int = 1
    ) -> None:
        """Build it with random weights.

        Args:
            num_classes: number of classes C.
            channels: widths of the convolutions; the last is the width of the features.
            kernel_size: side of their kernels in pixels, odd.
            stride: that of the first, 1 in theirs; with kernels of 1 pixel a larger one looks at fewer pixels.
        """
        super().__init__()
        # a kernel of 1 pixel that steps over pixels is one that never gets them; oneDNN's own way has corrupted memory
        self.step = stride if kernel_size == 1 else 1
        layers: list[nn.Module] = []
        for width_in, width_out in zip([3, *channels[:-1]], channels, strict=True):
            first = stride // self.step if not layers else 1
            conv = nn.Conv2d(width_in, width_out, kernel_size, first, padding=kernel_size // 2)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, H, W]."""
        image = image[..., :: self.step, :: self.step]
        scores: Tensor = self.head(self.pool(self.layers(image)).flatten(1))
        return scores


class BagNet18(nn.Module):
    """ResNet-18 with mostly 1x1 kernels, so that its features see small patches, as the biased network of ReBias.

    The rule is that of BagNets (Brendel and Bethge, arXiv 1904.00760), applied to the blocks of ResNet-18: a stem of a
    1x1 and a 3x3 convolution without pooling; four groups of two blocks with 64, 128, 256 and 512 channels and strides
    2, 2, 2 and 1; no padding anywhere. The first convolution of a group's first ``kernel3`` blocks is 3x3, every other
    1x1. The receptive field is 5 pixels with the ``kernel3`` of ReBias's code (arXiv 1910.02806), and 9, 17 and 33
    pixels with (1, 1, 0, 0), (1, 1, 1, 0) and (1, 1, 1, 1), those of BagNet-9, BagNet-17 and BagNet-33.
    """

    def __init__(self, num_classes: int, kernel3: Sequence[int] = (1, 0, 0, 0)) -> None:
        """Build it with random weights.

        Args:
            num_classes: number of classes C.
            kernel3: for each group, how many of its two blocks begin with a 3x3 convolution.

        Raises:
            ConfigError: there are not as many numbers as groups.
        """
        super().__init__()
        widths, strides = (64, 64, 128, 256, 512), (2, 2, 2, 1)
        if len(kernel3) != len(strides):
            raise ConfigError(
                f"model.backbone_args.kernel3 must be 4 numbers, but is {list(kernel3)}: set 1, 0, 0, 0, say."
            )
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 1, bias=False),
            nn.Conv2d(64, 64, 3, bias=False),
            nn.BatchNorm2d(64, momentum=0.001),
            nn.ReLU(inplace=True),
        )
        blocks = []
        for width_in, width, stride, wide in zip(widths[:-1], widths[1:], strides, kernel3, strict=True):
            blocks.append(_BagBlock(width_in, width, stride, 3 if wide > 0 else 1))
            blocks.append(_BagBlock(width, width, 1, 3 if wide > 1 else 1))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of images [B, 3, H, W]."""
        scores: Tensor = self.head(self.pool(self.blocks(self.stem(image))).flatten(1))
        return scores


class _BagBlock(nn.Module):
    """A convolution without padding and a 1x1 one; where the former shrinks the image, so does the shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int, kernel_size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, kernel_size, stride=stride, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            conv = nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return F.relu(y + self.skip(x)[:, :, : y.shape[2], : y.shape[3]])
