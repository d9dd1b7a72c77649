"""What the generative adversarial networks share: one step of both players, averaged weights, signals, results."""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .class_conditional import ClassConditional
from .classifier import Batch
from .errors import ConfigError
from .gan_augment import Augmentation
from .gan_sampling import draw, save_network, settle_statistics
from .generative import pictures, save_grid

EPSILON = 1e-12
CARD = """---
library_name: diffubias
tags: [image-generation, class-conditional, gan]
---
{network} ({parameters:.1f} M parameters, {size} x {size} pixels), trained by diffubias ({module}) for {steps} steps
on {data}, source {source}; averaged weights.

Classes: {classes}
"""


@dataclass(frozen=True)
class Turn:
    """What both players come to in one step.

    Attributes:
        discriminator: loss of the discriminator, whose gradient reaches no weight of the generator.
        generator: loss of the generator, whose gradient reaches no weight of the discriminator.
        real: scores of the real images, real above 0.
        fake: scores of the drawn ones.
        drawn: the drawn images [B, 3, H, W].
        further: what else is worth logging, by name.
    """

    discriminator: Tensor
    generator: Tensor
    real: Tensor
    fake: Tensor
    drawn: Tensor
    further: dict[str, Tensor] = field(default_factory=dict)


class GAN(ClassConditional):
    """A generator and a discriminator, conditional on the class; a subclass gives the networks and their losses.

    Both take their step at once, from one backward pass over the sum of the two losses, of which each reaches the
    weights of its own player only. So one optimizer with two groups of weights serves both, and accumulation, mixed
    precision and DDP work as for any other module.

    ``average``, the running average of the generator's weights, is what draws and is exported. Logs ``train/loss``
    (the sum), ``train/generator``, ``train/discriminator``, and signals of what goes wrong: ``train/real_score`` and
    ``train/fake_score``, ``train/real_right`` and ``train/fake_right``, the shares that the discriminator gets right
    (both near 1: it has won; both near 0.5: it cannot tell), ``train/spread``, the standard deviation over the drawn
    images of a class relative to that over the real ones (near 0: the generator draws one image of each class), and
    ``val/real_score``, which falls behind ``train/real_score`` when the discriminator learns images by heart.
    """

    key: ClassVar[str] = "gan"
    network_settings: ClassVar[tuple[str, ...]] = ("num_classes", "size", "latent")

    def __init__(
        self,
        num_classes: int | None = None,
        size: int | None = None,
        latent: int = 256,
        augmentations: tuple[Augmentation, ...] = ("color", "translation", "cutout"),
        ema: float = 0.999,
        repeats: int = 1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        grid_images: int = 4,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            num_classes: number of classes C; None asks the data module.
            size: side of the images, in pixels; None takes that of the data module. Pictures of another size are
                brought to it.
            latent: length of the random vector that an image is drawn from.
            augmentations: random changes of all images that the discriminator sees, see :func:`augment`.
            ema: decay of the running average of the generator's weights; it grows up to this value in the first steps.
            repeats: how often every training image comes in an epoch; a few mined images make short epochs otherwise.
            lr: the learning rate of both players.
            betas: those of Adam.
            optimizer: the optimizer, everything but its learning rate and betas.
            scheduler: learning-rate scheduler; None keeps the rate.
            scheduler_interval: whether the scheduler counts epochs or optimizer steps.
            grid_images: images a class in the picture that is drawn after each validation; 0 for no picture.

        Raises:
            ConfigError: a value lies outside its range.
        """
        for name, value in (("latent", latent), ("repeats", repeats)):
            if value < 1:
                raise ConfigError(f"{self.key}.{name} must be at least 1, but is {value}.")
        super().__init__(ema, optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.generator: nn.Module | None = None
        self.discriminator: nn.Module | None = None

    @property
    def learner(self) -> nn.Module:
        """The network that is averaged."""
        assert self.generator is not None
        return self.generator

    # What a subclass gives

    @abstractmethod
    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        """A new generator, see ``NETWORKS``, and a new discriminator."""

    @abstractmethod
    def turn(self, real: Tensor, label: Tensor) -> Turn:
        """Compute what both players are to minimise.

        Args:
            real: images float [B, 3, size, size] in [-1, 1].
            label: their classes, int64 [B].
        """

    @abstractmethod
    def scores(self, image: Tensor, label: Tensor) -> Tensor:
        """The discriminator's scores [B, ...] of images [B, 3, size, size] of classes [B]."""

    # Building

    def configure_model(self) -> None:
        """Build the networks and the average, once.

        Raises:
            ConfigError: the number of classes or the size is known nowhere, or the networks cannot have that size.
        """
        if self.generator is not None:
            return
        self.settle_sizes()
        self.check_size(self.hparams["size"])
        with torch.device("cpu"):
            self.generator, self.discriminator = self.new_networks()
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def check_fit(self, data: Any) -> None:
        """Refuse data that cannot be learnt.

        Raises:
            ConfigError: see :class:`ClassConditional`, or the images are synthetic, or of a size that does not fit.
        """
        super().check_fit(data)
        if data.source not in ("real", "mined"):
            raise ConfigError(f"stage of {type(self).__name__}: data must be real or mined, but is {data.source}.")
        self.check_size(self.hparams["size"] or int(data.image_size))

    def check_size(self, size: int) -> None:
        """Refuse a size that the networks cannot have.

        Raises:
            ConfigError: it is no power of two from 8 to 1024.
        """
        if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ConfigError(f"{self.key}.size={size} is no power of two from 8 to 1024: set it to the next one.")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights of the two players."""
        assert self.generator is not None
        assert self.discriminator is not None
        betas = tuple(self.hparams["betas"])
        return [{"params": [*own.parameters()], "betas": betas} for own in (self.generator, self.discriminator)]

    # Training

    def on_fit_start(self) -> None:
        """Have every image come several times an epoch, if that is wanted."""
        if self.hparams["repeats"] > 1:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            data.repeat_entries(torch.arange(len(data.train_labels())), self.hparams["repeats"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of what both players minimise."""
        real = pictures(self, batch, self.hparams["size"])
        turn = self.turn(real, batch["label"])
        loss = turn.discriminator + turn.generator
        self.epoch_loss.add(loss, len(real))
        with torch.no_grad():
            signals = {
                "generator": turn.generator,
                "discriminator": turn.discriminator,
                "real_score": turn.real.mean(),
                "fake_score": turn.fake.mean(),
                "real_right": (turn.real > 0).float().mean(),
                "fake_right": (turn.fake < 0).float().mean(),
                "spread": relative_spread(turn.drawn.detach(), real, batch["label"]),
                **turn.further,
            }
        named = {f"train/{name}": value.detach() for name, value in signals.items()}
        self.log_dict(named, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(real))
        return loss

    # Validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score of real images that nobody has trained on."""
        if dataloader_idx:  # a watched test set is for classifiers
            return
        score = self.scores(pictures(self, batch, self.hparams["size"]), batch["label"]).mean()
        self.log("val/real_score", score, sync_dist=True, batch_size=len(batch["label"]), add_dataloader_idx=False)

    def draw_grid(self) -> None:
        """Draw a row of images a class, see :class:`ClassConditional`."""
        columns, rows = self.hparams["grid_images"], min(self.hparams["num_classes"], 10)
        labels = torch.arange(rows, device=self.device).repeat_interleave(columns)
        generators = [torch.Generator().manual_seed(number) for number in range(len(labels))]
        save_grid(self, draw(self.finished(), labels, generators), columns)

    # Results

    def finished(self) -> Any:
        """A copy of the averaged generator, ready to draw."""
        average: Any = self.average
        with torch.random.fork_rng(devices=[]):  # a new one, since trainer.sync_batchnorm changes the layers of the old
            network = type(average)(**average.settings)
        network.load_state_dict(average.state_dict())
        network.to(self.device).requires_grad_(False)
        settle_statistics(network)
        return network

    def write(self, folder: Path, data: Any) -> None:
        """Write the averaged generator as a folder of safetensors, with a model card.

        Args:
            folder: where to; a new folder.
            data: the data module, for the names of the classes.
        """
        network = self.finished()
        save_network(network, folder)
        kinds = {"network": type(network).__name__, "module": type(self).__name__}
        self.write_card(folder, data, CARD, source=data.source, **kinds)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients through a network to its input, but none to its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def relative_spread(drawn: Tensor, real: Tensor, label: Tensor) -> Tensor:
    """The spread of drawn images by that of real ones; 1 for a batch that has no class twice, which tells nothing."""
    own, wanted = spread(drawn, label), spread(real, label)
    return torch.where(wanted > 0, own / wanted.clamp_min(EPSILON), 1.0)


def spread(image: Tensor, label: Tensor) -> Tensor:
    """Root mean square distance of the values of images [B, ...] from their mean over the class [B] in the batch."""
    image = image.float().flatten(1)
    same = (label[:, None] == label).float()
    variance = (image - same @ image / same.sum(dim=1, keepdim=True)).square().mean()
    return torch.where(variance > 0, variance.clamp_min(EPSILON).sqrt(), 0.0)  # the root has no gradient at 0
