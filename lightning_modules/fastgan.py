"""A small GAN that learns from few images, as AmpliBias draws with it."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .errors import ConfigError
from .fastgan_networks import FastGANDiscriminator, FastGANGenerator
from .gan import GAN, Turn, frozen, relative_spread
from .gan_augment import augment
from .gan_losses import hinge_discriminator, hinge_generator


class FastGAN(GAN):
    """FastGAN (Liu et al., arXiv 2101.04775): skip-layer excitation and a self-supervised discriminator.

    In AmpliBias (Ko et al., CIKM 2023) it learns from the mined images alone (a stage with ``data: mined``) and then
    draws as many of them as are wanted. Hinge loss; all images that the discriminator sees are augmented
    (arXiv 2006.10738), and from its features of real ones it must be able to decode them.
    """

    network_settings: ClassVar[tuple[str, ...]] = (*GAN.network_settings, "width")

    def __init__(self, width: int = 64, decoding_weight: float = 1.0, diversity: float = 0.0, **kwargs: Any) -> None:
        """Keep the settings; the networks are built later.

        Args:
            width: channels at 128 pixels; other sides have multiples of it.
            decoding_weight: how much the decoding of real images counts in the discriminator's loss.
            diversity: how much it counts in the generator's loss that the drawn images of a class in a batch differ
                less than the real ones do, max(0, 1 - ``train/spread``). Our addition, in neither paper: after few
                steps a generator otherwise draws one image a class.
            **kwargs: see :class:`GAN`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if diversity < 0:
            raise ConfigError(f"{self.key}.diversity must not be negative, but is {diversity}.")
        super().__init__(**kwargs)

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        """A new generator and a new discriminator."""
        size, classes, width = (self.hparams[key] for key in ("size", "num_classes", "width"))
        return FastGANGenerator(size, classes, self.hparams["latent"], width), FastGANDiscriminator(
            size, classes, width
        )

    def turn(self, real: Tensor, label: Tensor) -> Turn:
        """Hinge losses, and the error of decoding."""
        network: Any = self.discriminator
        assert self.generator is not None
        chosen = self.hparams["augmentations"]
        drawn = self.generator(torch.randn(len(real), self.hparams["latent"], device=real.device), label)
        shown = augment(real, chosen)
        real_scores, features = network(shown, label)
        fake_scores, _ = network(augment(drawn.detach(), chosen), label)
        quarter = int(torch.randint(4, ()))
        error = network.reconstruction_error(shown, features, quarter)
        loss = hinge_discriminator(real_scores, fake_scores) + self.hparams["decoding_weight"] * error
        with frozen(network):
            again, _ = network(augment(drawn, chosen), label)
        missing = F.relu(1 - relative_spread(drawn, real, label)) if self.hparams["diversity"] else 0.0
        generator = hinge_generator(again) + self.hparams["diversity"] * missing
        return Turn(loss, generator, real_scores, fake_scores, drawn)

    def scores(self, image: Tensor, label: Tensor) -> Tensor:
        """Scores [B, M] of M places of each image."""
        assert self.discriminator is not None
        found: Tensor = self.discriminator(image, label)[0]
        return found
