"""StyleGAN2, which A² lets learn the biased set."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .gan import GAN, Turn, frozen
from .gan_augment import Augmentation, augment
from .gan_losses import gradient_penalty, logistic_discriminator, logistic_generator, path_lengths
from .stylegan2_networks import StyleGAN2Discriminator, StyleGAN2Generator

NETWORK = ("style", "mapping_layers", "width", "max_channels")
PATH_DECAY = 0.01  # of the running mean of path lengths (arXiv 1912.04958, appendix B)


class StyleGAN2(GAN):
    """StyleGAN2 (Karras et al., arXiv 1912.04958), conditional on the class.

    Logistic loss; the gradient penalty R1 and the path-length penalty come every so many steps, weighed accordingly
    (appendix B of the paper). They are part of the step of that turn and no step of their own, so that the rates need
    not be adapted. Logs also ``train/r1``, the mean squared gradient, and ``train/path``, the path-length penalty.
    """

    network_settings: ClassVar[tuple[str, ...]] = (*GAN.network_settings, *NETWORK)
    scores_patches: ClassVar[bool] = False

    def __init__(
        self,
        latent: int = 512,
        style: int = 512,
        mapping_layers: int = 8,
        width: int = 256,
        max_channels: int = 512,
        r1: float = 10.0,
        r1_every: int = 16,
        path: float = 2.0,
        path_every: int = 4,
        mixing: float = 0.9,
        augmentations: tuple[Augmentation, ...] = (),
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            latent: length of the random vector that an image is drawn from.
            style: length W of a style.
            mapping_layers: layers of the mapping network.
            width: channels at 64 pixels; fewer at greater sides, more at smaller ones.
            max_channels: most channels of a layer.
            r1: weight gamma of the gradient penalty, which counts gamma / 2; 0 for none.
            r1_every: steps from one to the next.
            path: weight of the path-length penalty; 0 for none.
            path_every: steps from one to the next.
            mixing: probability that an image has the styles of two latents.
            augmentations: random changes of all images that the discriminator sees, see :func:`augment`.
            lr: the learning rate of both players.
            betas: those of Adam.
            **kwargs: see :class:`GAN`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if r1_every < 1 or path_every < 1 or mapping_layers < 1:
            raise ConfigError(f"{self.key}: r1_every, path_every and mapping_layers must be at least 1.")
        super().__init__(latent=latent, augmentations=augmentations, lr=lr, betas=betas, **kwargs)
        self.register_buffer("path_mean", torch.zeros(()))

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        """A new generator and a new discriminator."""
        own = self.hparams
        size, classes, latent = own["size"], own["num_classes"], own["latent"]
        generator = StyleGAN2Generator(size, classes, latent, **{name: own[name] for name in NETWORK})
        return generator, StyleGAN2Discriminator(size, classes, own["width"], own["max_channels"], self.scores_patches)

    def turn(self, real: Tensor, label: Tensor) -> Turn:
        """Logistic losses and, when it is their turn, the penalties."""
        network: Any = self.discriminator
        generator: Any = self.generator
        chosen = self.hparams["augmentations"]
        drawn, _ = generator.synthesise(self._mixed_styles(label))
        shown = augment(real, chosen)
        real_scores, fake_scores = network(shown, label), network(augment(drawn.detach(), chosen), label)
        with frozen(network):
            again = network(augment(drawn, chosen), label)
        penalty, found = self.discriminator_penalty(shown, label)
        path, seen = self._path_penalty(label)
        return Turn(
            logistic_discriminator(real_scores, fake_scores) + penalty, logistic_generator(again) + path,
            real_scores, fake_scores, drawn, found | seen,
        )  # fmt: skip

    def discriminator_penalty(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 of real images with its weight and what it was, or 0 and nothing where it is not its turn."""
        own = self.hparams
        if not own["r1"] or self.global_step % own["r1_every"]:
            return image.new_zeros(()), {}
        assert self.discriminator is not None
        with torch.autocast(image.device.type, enabled=False):
            image = image.detach().float().requires_grad_()
            found = gradient_penalty(self.discriminator(image, label), image)
        return own["r1"] / 2 * own["r1_every"] * found, {"r1": found}

    def _path_penalty(self, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own, generator = self.hparams, self.generator
        if not own["path"] or self.global_step % own["path_every"]:
            return torch.zeros((), device=label.device), {}
        assert isinstance(generator, StyleGAN2Generator)
        label = label[: max(1, len(label) // 2)]  # half of the batch, as in the paper
        with torch.autocast(label.device.type, enabled=False):
            latent = torch.randn(len(label), own["latent"], device=label.device)
            style = generator.spread_style(generator.styles(latent, label)).contiguous()
            lengths = path_lengths(generator.synthesise(style)[0], style)
            mean = torch.lerp(self.path_mean, lengths.detach().mean(), PATH_DECAY)  # type: ignore[arg-type]
            found = (lengths - mean).square().mean()
            self.path_mean.copy_(mean)  # type: ignore[operator]
        return own["path"] * own["path_every"] * found, {"path": found}

    def _mixed_styles(self, label: Tensor) -> Tensor:
        """Styles [B, L, W] of fresh latents; some images have those of a second latent from some layer on."""
        generator = self.generator
        assert isinstance(generator, StyleGAN2Generator)
        latents = torch.randn(2, len(label), self.hparams["latent"], device=label.device)
        first, second = (generator.spread_style(generator.styles(own, label)) for own in latents)
        layers = torch.arange(generator.num_layers, device=label.device)
        start = torch.randint(1, generator.num_layers, (len(label), 1), device=label.device)
        mixed = torch.rand(len(label), 1, device=label.device) < self.hparams["mixing"]
        return torch.where((mixed & (layers >= start))[:, :, None], second, first)

    def scores(self, image: Tensor, label: Tensor) -> Tensor:
        """Scores [B, 1] of each image."""
        assert self.discriminator is not None
        found: Tensor = self.discriminator(image, label)
        return found
