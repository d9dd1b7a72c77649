"""Small networks that torchvision lacks, as the code of the field's papers has them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


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
