"""The two networks of FastGAN, a small GAN for few images."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm

# width of the features at each side, as a multiple of the width at 128 pixels
FACTORS = {4: 16.0, 8: 8.0, 16: 4.0, 32: 2.0, 64: 2.0, 128: 1.0, 256: 0.5, 512: 0.25, 1024: 0.125}
REACH = 4  # halvings between the two ends of a skip-layer excitation


class FastGANGenerator(nn.Module):
    """Draws images of a class from latents.

    Skip-layer excitation lets features of few pixels weigh the channels of features of many; batch normalisation and
    gated linear units keep it light.

    Args:
        size: side of the images in pixels, a power of two from 8 to 1024.
        num_classes: number of classes C.
        latent: length of a latent.
        width: channels at 128 pixels; other sides have multiples of it, see ``FACTORS``.

    References:
        Liu et al., Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis, arXiv
        2101.04775. That network knows no classes; here the latent is joined by an embedding of the class.
    """

    def __init__(self, size: int, num_classes: int, latent: int = 256, width: int = 64) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        self.settings: dict[str, Any] = {
            "size": size, "num_classes": num_classes, "latent": latent, "width": width,
        }  # fmt: skip
        self.latent = latent
        sides = sides_to(size)
        widths = [channels(side, width) for side in sides]
        self.embedding = nn.Embedding(num_classes, latent)
        self.start = nn.Sequential(
            nn.ConvTranspose2d(2 * latent, 2 * widths[0], 4, bias=False), nn.BatchNorm2d(2 * widths[0]), nn.GLU(1)
        )
        # every second block is deeper and takes noise
        self.blocks = nn.ModuleList(
            _Upwards(before, after, deep=number % 2 == 0) for number, (before, after) in enumerate(pairwise(widths))
        )
        reach = min(REACH, len(sides) - 1)
        self.excitations = nn.ModuleList(
            _Excitation(few, many) for few, many in zip(widths[:-reach], widths[reach:], strict=True)
        )
        self.head = nn.Conv2d(widths[-1], 3, 3, padding=1)

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Shapes [1, S, S] of the noise that an image takes."""
        sides = sides_to(self.settings["size"])[1:]
        return [(1, side, side) for side, block in zip(sides, self.blocks, strict=True) for _ in range(_noises(block))]

    def forward(self, latent: Tensor, label: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Draw.

        Args:
            latent: float [B, latent], standard normal.
            label: classes, int64 [B].
            noise: standard normal [B, 1, S, S], see :attr:`noise_shapes`; None draws it.

        Returns:
            Images float [B, 3, size, size] in [-1, 1].
        """
        if noise is None:
            noise = [torch.randn(len(latent), *shape, device=latent.device) for shape in self.noise_shapes]
        left = iter(noise)
        features = [self.start(torch.cat((latent, self.embedding(label)), dim=1)[:, :, None, None])]
        skipped = len(self.blocks) - len(self.excitations)
        for number, block in enumerate(self.blocks):
            grown = block(features[-1], [next(left) for _ in range(_noises(block))])
            if number >= skipped:
                grown = self.excitations[number - skipped](features[number - skipped], grown)
            features.append(grown)
        image: Tensor = self.head(features[-1]).tanh()
        return image


class FastGANDiscriminator(nn.Module):
    """Tells real images of a class from drawn ones, and learns to describe them by decoding what it has seen.

    It scores places of the image, and the image at half its size, once for every class; the score of the image's own
    class is the one that counts, so that each class has a judge of its own from the first step on (as in StarGAN v2,
    Choi et al., arXiv 1912.01865).

    Args:
        size: side of the images in pixels, a power of two from 8 to 1024.
        num_classes: number of classes C.
        width: channels at 128 pixels.
    """

    def __init__(self, size: int, num_classes: int, width: int = 64) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        self.last = 8 if size >= 64 else 4  # side of the features that are scored
        sides = [side for side in reversed(sides_to(size)) if side >= self.last]
        widths = [channels(side, width) for side in sides]
        self.stem = nn.Sequential(_conv(3, widths[0], 3, padding=1), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(_Downwards(*pair) for pair in pairwise(widths))
        self.head = _Head(widths[-1], num_classes)
        self.small = nn.Sequential(
            _conv(3, widths[1], 3, padding=1), nn.LeakyReLU(0.2), *(_Downwards(*pair) for pair in pairwise(widths[1:]))
        )
        self.small_head = _Head(widths[-1], num_classes)
        doublings = (size // 2 // self.last).bit_length() - 1
        self.decode_whole = _Decoder(widths[-1], doublings)
        self.decode_part = _Decoder(widths[-2], doublings)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Score.

        Args:
            image: float [B, 3, size, size].
            label: classes, int64 [B].

        Returns:
            Scores [B, M], real above 0, of M places; and the features [B, c, 2 s, 2 s] and [B, C, s, s] to decode.
        """
        features = self.stem(image)
        middle = features
        for block in self.blocks:
            middle, features = features, block(features)
        small = self.small(F.avg_pool2d(image, 2))
        return torch.cat((self.head(features, label), self.small_head(small, label)), dim=1), (middle, features)

    def reconstruction_error(self, image: Tensor, features: tuple[Tensor, Tensor], quarter: int) -> Tensor:
        """Mean absolute error of two decoded pictures: of the image at half its size, and of a quarter of it.

        The paper compares them in the features of a pretrained network; here pixels, for which nothing is fetched.

        Args:
            image: what was seen, float [B, 3, size, size].
            features: what :meth:`forward` returned.
            quarter: which quarter, 0 to 3.
        """
        middle, final = features
        whole = F.l1_loss(self.decode_whole(final), F.avg_pool2d(image, 2))
        part = F.l1_loss(self.decode_part(crop_quarter(middle, quarter)), crop_quarter(image, quarter))
        return whole + part


def sides_to(size: int) -> list[int]:
    """The sides 4, 8, ... of features up to the size of the images."""
    return [4 * 2**level for level in range((size // 4).bit_length())]


def channels(side: int, width: int) -> int:
    """Channels of the features of some side."""
    return max(1, int(FACTORS[side] * width))


def crop_quarter(image: Tensor, quarter: int) -> Tensor:
    """Quarter 0 (top left), 1 (top right), 2 or 3 of images [B, C, H, W]."""
    height, width = image.shape[2] // 2, image.shape[3] // 2
    top, left = quarter // 2 * height, quarter % 2 * width
    return image[:, :, top : top + height, left : left + width]


def _conv(inputs: int, outputs: int, kernel: int, **options: Any) -> nn.Module:
    """A convolution with spectral normalisation (Miyato et al., arXiv 1802.05957)."""
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, bias=False, **options))


def _noises(block: nn.Module) -> int:
    return len(block.noises) if isinstance(block, _Upwards) else 0


class _Upwards(nn.Module):
    """Doubles the side; a deep block has two convolutions, and noise after each."""

    def __init__(self, inputs: int, outputs: int, deep: bool) -> None:
        super().__init__()
        count = 2 if deep else 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(outputs if number else inputs, 2 * outputs, 3, padding=1, bias=False) for number in range(count)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * outputs) for _ in range(count))
        self.noises = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(count if deep else 0))

    def forward(self, features: Tensor, noise: list[Tensor]) -> Tensor:
        features = F.interpolate(features, scale_factor=2.0, mode="nearest")
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = convolution(features)
            if noise:
                features = features + self.noises[number] * noise[number]
            features = F.glu(norm(features), dim=1)
        return features


class _Excitation(nn.Module):
    """Weighs the channels of features of many pixels by features of few."""

    def __init__(self, few: int, many: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(few, many, 4, bias=False), nn.SiLU(),
            nn.Conv2d(many, many, 1, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, few: Tensor, many: Tensor) -> Tensor:
        weighed: Tensor = many * self.gate(few)
        return weighed


class _Downwards(nn.Module):
    """Halves the side: two convolutions beside a mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _conv(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2),
            _conv(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.direct = nn.Sequential(
            nn.AvgPool2d(2), _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
        )

    def forward(self, features: Tensor) -> Tensor:
        halved: Tensor = (self.main(features) + self.direct(features)) / 2
        return halved


class _Head(nn.Module):
    """Scores every 4 x 4 places of the features for the class: [B, C, S, S] and [B] to [B, (S - 3)^2]."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(inputs, inputs, 1), nn.BatchNorm2d(inputs), nn.LeakyReLU(0.2), _conv(inputs, num_classes, 4)
        )

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        scores: Tensor = self.layers(features)
        return scores[torch.arange(len(label), device=label.device), label].flatten(1)


class _Decoder(nn.Module):
    """Turns features into a picture, doubling their side some times."""

    def __init__(self, inputs: int, doublings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(doublings):
            outputs = max(8, inputs // 2)
            layers += [
                nn.Upsample(scale_factor=2.0), nn.Conv2d(inputs, 2 * outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(2 * outputs), nn.GLU(1),
            ]  # fmt: skip
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 3, 3, padding=1), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        picture: Tensor = self.layers(features)
        return picture
