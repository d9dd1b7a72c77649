"""The two networks of StyleGAN2."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .stylegan2_layers import EqualConv, EqualLinear, ModulatedConv, StyledLayer, batch_deviation, double

MAPPING_RATE = 0.01  # learning rate of the mapping network relative to the others (arXiv 1812.04948, appendix B)


class StyleGAN2Generator(nn.Module):
    """Maps a latent and a class to a style, and a style to an image.

    Args:
        size: side of the images in pixels, a power of two from 8 to 1024.
        num_classes: number of classes C.
        latent: length of a latent.
        style: length W of a style.
        mapping_layers: layers of the mapping network.
        width: channels at 64 pixels and below at most ``max_channels``; from there halved with every doubling.
        max_channels: most channels of a layer.

    References:
        Karras et al., Analyzing and Improving the Image Quality of StyleGAN, arXiv 1912.04958. The class joins the
        latent as an embedding, as in Karras et al., arXiv 2006.06676.
    """

    def __init__(
        self, size: int, num_classes: int, latent: int = 512, style: int = 512, mapping_layers: int = 8,
        width: int = 256, max_channels: int = 512,
    ) -> None:  # fmt: skip
        """Make the network with fresh weights."""
        super().__init__()
        self.settings: dict[str, Any] = {
            "size": size, "num_classes": num_classes, "latent": latent, "style": style,
            "mapping_layers": mapping_layers, "width": width, "max_channels": max_channels,
        }  # fmt: skip
        self.latent = latent
        self.embedding = nn.Embedding(num_classes, latent)
        widths = [2 * latent] + [style] * mapping_layers
        self.mapping = nn.Sequential(*(EqualLinear(*pair, rate=MAPPING_RATE, active=True) for pair in pairwise(widths)))
        widths = [min(max_channels, width * 64 // side) for side in self.sides]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        layers = [StyledLayer(widths[0], widths[0], style)]
        for before, after in pairwise(widths):
            layers += [StyledLayer(before, after, style, doubles=True), StyledLayer(after, after, style)]
        self.layers = nn.ModuleList(layers)
        self.to_rgb = nn.ModuleList(ModulatedConv(own, 3, 1, style, demodulate=False) for own in widths)

    @property
    def sides(self) -> list[int]:
        """Sides of the features, 4, 8, ... up to the size."""
        return [4 * 2**level for level in range((int(self.settings["size"]) // 4).bit_length())]

    @property
    def num_layers(self) -> int:
        """How many layers L take a style."""
        return len(self.layers)

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        """Shapes [1, S, S] of the noise that an image takes."""
        sides = self.sides
        return [(1, sides[0], sides[0]), *((1, side, side) for side in sides[1:] for _ in range(2))]

    def styles(self, latent: Tensor, label: Tensor) -> Tensor:
        """Map latents [B, latent] and classes [B] to styles [B, W]."""
        joined = torch.cat((normalise(latent), normalise(self.embedding(label))), dim=1)
        mapped: Tensor = self.mapping(joined)
        return mapped

    def forward(self, latent: Tensor, label: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Draw.

        Args:
            latent: float [B, latent], standard normal.
            label: classes, int64 [B].
            noise: standard normal [B, 1, S, S], see :attr:`noise_shapes`; None draws it.

        Returns:
            Images float [B, 3, size, size], for the most part in [-1, 1].
        """
        return self.synthesise(self.spread_style(self.styles(latent, label)), noise)[0]

    def spread_style(self, style: Tensor) -> Tensor:
        """Give every layer the same style: [B, W] to [B, L, W]."""
        return style[:, None].expand(-1, self.num_layers, -1)

    def synthesise(self, style: Tensor, noise: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Draw from styles.

        Args:
            style: one a layer, float [B, L, W].
            noise: standard normal [B, 1, S, S]; None draws it.

        Returns:
            Images float [B, 3, size, size]; and the features of every layer.
        """
        if noise is None:
            noise = [torch.randn(len(style), *shape, device=style.device) for shape in self.noise_shapes]
        features = self.constant.expand(len(style), -1, -1, -1)
        image: Tensor | None = None
        seen: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            features = layer(features, style[:, number], noise[number])
            seen.append(features)
            if number % 2 == 0:  # the last layer of a side
                more = self.to_rgb[number // 2](features, style[:, number])
                image = more if image is None else double(image) + more
        assert image is not None
        return image, seen


class StyleGAN2Discriminator(nn.Module):
    """A residual network that scores images of a class, whole or in patches.

    Args:
        size: side of the images in pixels, a power of two from 8 to 1024.
        num_classes: number of classes C.
        width: see :class:`StyleGAN2Generator`.
        max_channels: see :class:`StyleGAN2Generator`.
        patches: whether it can score patches.

    References:
        Karras et al., arXiv 1912.04958; a score for every class, of which that of the image's own counts, as in Choi et
        al., arXiv 1912.01865. The patches are those of Ojha et al., arXiv 2104.06820, section 3.2.
    """

    def __init__(
        self, size: int, num_classes: int, width: int = 256, max_channels: int = 512, patches: bool = False
    ) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        sides = [4 * 2**level for level in reversed(range((size // 4).bit_length()))]
        widths = [min(max_channels, width * 64 // side) for side in sides]
        self.stem = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(_Residual(*pair) for pair in pairwise(widths))
        self.last = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.project = EqualLinear(widths[-1] * 16, widths[-1], active=True)
        self.head = EqualLinear(widths[-1], num_classes)
        self.patch_head = EqualConv(widths[-2], 1, 3, active=False) if patches else None

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Score whole images float [B, 3, size, size] of classes int64 [B]: [B, 1], real above 0."""
        return self.score(self.look(image), label)

    def look(self, image: Tensor) -> Tensor:
        """What both kinds of scores are made of: images float [B, 3, size, size] to features [B, C, 8, 8]."""
        features: Tensor = self.stem(image)
        for block in self.blocks[:-1]:
            features = block(features)
        return features

    def score_patches(self, features: Tensor) -> Tensor:
        """Score features [B, C, 8, 8] by patch, which knows neither the class nor the rest of the image: [B, 64]."""
        assert self.patch_head is not None
        patches: Tensor = self.patch_head(features).flatten(1)
        return patches

    def score(self, features: Tensor, label: Tensor) -> Tensor:
        """Score features [B, C, 8, 8] of images of classes [B] as a whole: [B, 1]."""
        features = self.last(batch_deviation(self.blocks[-1](features)))
        scores: Tensor = self.head(self.project(features.flatten(1)))
        return scores.gather(1, label[:, None])


def normalise(latent: Tensor) -> Tensor:
    """Bring the mean square of each row to 1."""
    return latent * (latent.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class _Residual(nn.Module):
    """Halves the side: two convolutions beside one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3)
        self.second = EqualConv(inputs, outputs, 3, halve=True)
        self.shortcut = EqualConv(inputs, outputs, 1, halve=True, active=False)

    def forward(self, features: Tensor) -> Tensor:
        halved: Tensor = (self.second(self.first(features)) + self.shortcut(features)) / 2**0.5
        return halved
