"""A StyleGAN2 that is led from one domain to another, of which there are few images."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .gan import Turn, frozen
from .gan_augment import augment
from .gan_losses import distance_consistency, logistic_discriminator, logistic_generator
from .gan_sampling import save_network
from .stylegan2 import StyleGAN2
from .stylegan2_layers import GROUP
from .stylegan2_networks import StyleGAN2Generator

SOURCE = "source-"  # what the files of the source generator begin with
ANCHOR_SPREAD = 0.05  # standard deviation of the latents around an anchor


class AdaptedGAN(StyleGAN2):
    """Few-shot adaptation by cross-domain correspondence (Ojha et al., arXiv 2104.06820), the second step of A².

    Starts from the trained networks of an earlier stage of :class:`StyleGAN2` (``uses: {source: STAGE}``), whose
    settings of the networks it takes over. Images that the adapted generator draws shall be as alike to each other as
    those that the source generator draws from the same latents. The discriminator sees whole images only near a few
    anchors in the space of latents; elsewhere it sees patches.

    The mapping network stays as it is, so that a style means the same to both generators. Logs also
    ``train/distance``, the divergence of the likenesses.
    """

    key: ClassVar[str] = "adapted"
    helper_names: ClassVar[tuple[str, ...]] = ("source",)
    scores_patches: ClassVar[bool] = True

    def __init__(
        self,
        distance: float = 1000.0,
        anchors: int = 10,
        anchor_share: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            distance: weight of the divergence of the likenesses.
            anchors: latents near which whole images are compared with real ones.
            anchor_share: share of the images of a batch that are drawn near an anchor, in (0, 1], in groups of 4,
                whose deviation the discriminator looks at.
            **kwargs: see :class:`StyleGAN2`; settings of the networks are those of the source. There is neither a
                path-length penalty nor mixing of styles.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if anchors < 1 or not 0 < anchor_share <= 1:
            raise ConfigError(f"{self.key}: anchors must be at least 1 and anchor_share lie in (0, 1].")
        super().__init__(path=0.0, mixing=0.0, **kwargs)
        self.register_buffer("anchors", torch.empty(0))

    # Building

    def check_fit(self, data: Any) -> None:
        """Refuse to begin without a source.

        Raises:
            ConfigError: see :class:`GAN`; or the stage hands over no StyleGAN2.
        """
        source = self.helpers.get("source", [None])[0]
        if not isinstance(source, StyleGAN2):
            raise ConfigError(
                f"stage of {type(self).__name__}: uses must hand over a source, a stage of StyleGAN2, such as "
                "uses: {source: gan}."
            )
        self._take_settings(source)
        super().check_fit(data)

    def _take_settings(self, source: StyleGAN2) -> None:
        for name in self.network_settings:
            self.hparams[name] = source.hparams[name]

    def configure_model(self) -> None:
        """Build the networks and the average with the settings of the source, once.

        Raises:
            ConfigError: see :class:`GAN`.
        """
        if sources := self.helpers.get("source"):
            self._take_settings(sources[0])
        super().configure_model()

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        """The networks of the source, its averaged generator, or new ones where there is none."""
        sources = self.helpers.get("source")
        generator, discriminator = super().new_networks()
        if sources and sources[0].average is not None:
            generator.load_state_dict(sources[0].average.state_dict())
            discriminator.load_state_dict(sources[0].discriminator.state_dict(), strict=False)  # it scores no patches
        assert isinstance(generator, StyleGAN2Generator)
        generator.mapping.requires_grad_(False)
        generator.embedding.requires_grad_(False)
        self.anchors = torch.randn(self.hparams["anchors"], self.hparams["latent"])
        return generator, discriminator

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights of the two players that learn."""
        groups = super().parameter_groups()
        return [group | {"params": [own for own in group["params"] if own.requires_grad]} for group in groups]

    # Training

    def on_fit_start(self) -> None:
        """Bring the source generator to the device."""
        super().on_fit_start()
        self._source.to(self.device)

    def make_room(self) -> None:
        """Take the source generator off the GPU."""
        if "source" in self.helpers:
            self._source.to("cpu")

    @property
    def _source(self) -> Any:
        return self.helpers["source"][0].average

    def turn(self, real: Tensor, label: Tensor) -> Turn:
        """Logistic losses of whole images near anchors and of patches, and the divergence of the likenesses."""
        network: Any = self.discriminator
        generator: Any = self.generator
        own, count = self.hparams, len(real)
        near = min(count, GROUP * max(1, round(count * own["anchor_share"] / GROUP)))
        latent = torch.randn(count, own["latent"], device=real.device)
        chosen: Tensor = self.anchors[torch.randint(own["anchors"], (near,), device=real.device)]
        latent[:near] = chosen + ANCHOR_SPREAD * latent[:near]
        noise = [torch.randn(count, *shape, device=real.device) for shape in generator.noise_shapes]
        style = generator.spread_style(generator.styles(latent, label))
        drawn, features = generator.synthesise(style, noise)
        with torch.no_grad():
            _, wanted = self._source.synthesise(style, noise)
        distance = distance_consistency(wanted, features)
        shown, fake = augment(real, own["augmentations"]), augment(drawn, own["augmentations"])
        seen, seen_fake = network.look(shown), network.look(fake.detach())
        real_scores, fake_scores = network.score(seen, label), network.score(seen_fake[:near], label[:near])
        loss = logistic_discriminator(real_scores, fake_scores)
        loss = loss + logistic_discriminator(network.score_patches(seen), network.score_patches(seen_fake))
        with frozen(network):
            again = network.look(fake)
            pleased = logistic_generator(network.score(again[:near], label[:near]))
            pleased = pleased + logistic_generator(network.score_patches(again))
        penalty, found = self.discriminator_penalty(shown, label)
        return Turn(
            loss + penalty, pleased + own["distance"] * distance, real_scores, fake_scores, drawn,
            found | {"distance": distance},
        )  # fmt: skip

    # Results

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the networks for the weights, as the checkpoint describes them where there is no source.

        Raises:
            ConfigError: see :class:`GAN`.
        """
        if "source" not in self.helpers:
            saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
            self.hparams.update({name: saved[name] for name in self.network_settings if name in saved})
        super().on_load_checkpoint(checkpoint)

    def write(self, folder: Path, data: Any) -> None:
        """Write both generators: what translates an image needs the source too.

        Args:
            folder: where to; a new folder.
            data: the data module, for the names of the classes.
        """
        super().write(folder, data)
        save_network(self._source, folder, SOURCE)
