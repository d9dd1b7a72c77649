"""A class-conditional diffusion model of the training images, which learns their bias along with them."""

import copy
import math
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .class_conditional import ClassConditional
from .class_sampling import draw_classes
from .classifier import Batch
from .errors import ConfigError
from .generative import pictures, save_grid

KEY = "diffusion"
CARD = """---
library_name: diffusers
tags: [image-generation, class-conditional]
---
Class-conditional diffusion model ({parameters:.1f} M parameters, {size} x {size} pixels, {prediction} prediction),
trained by diffubias for {steps} steps on {data}; averaged weights. Class embedding {nothing} means "no class".

Classes: {classes}
"""


class ClassDiffusion(ClassConditional):
    """A class-conditional diffusion model with classifier-free guidance (Ho & Salimans, arXiv 2207.12598).

    The first stage of Diffusing DeBias (arXiv 2502.09564, section 3): trained on the biased set, it draws images that
    nearly all follow the bias. Network and noise schedule are those of diffusers. The class is dropped at random, so
    that the same network also predicts without one.

    ``average``, the running average of the weights, is what draws, validates and is exported. Logs ``train/loss`` and
    ``val/loss``, the mean squared error; the latter is of noise and times that are the same in every epoch.
    """

    network_settings: ClassVar[tuple[str, ...]] = (
        "num_classes", "size", "channels", "attention", "layers_per_block", "prediction",
    )  # fmt: skip

    def __init__(
        self,
        num_classes: int | None = None,
        size: int | None = None,
        channels: tuple[int, ...] = (64, 128, 256),
        attention: tuple[bool, ...] = (False, False, True),
        layers_per_block: int = 2,
        dropout: float = 0.0,
        prediction: Literal["epsilon", "v_prediction"] = "epsilon",
        noise_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear",
        noise_steps: int = 1000,
        class_dropout: float = 0.1,
        ema: float = 0.9999,
        gradient_checkpointing: bool = False,
        lr: float = 2e-4,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        grid_images: int = 4,
        grid_steps: int = 25,
        grid_weight: float = 1.0,
    ) -> None:
        """Keep the settings; the network is built later.

        Args:
            num_classes: number of classes C; None asks the data module.
            size: side of the images, in pixels; None takes that of the data module. Larger pictures are reduced to it.
            channels: width of each level of the U-Net; the size halves from each to the next.
            attention: whether a level attends over its pixels.
            layers_per_block: residual blocks a level.
            dropout: probability inside the residual blocks.
            prediction: what the network predicts: the noise, as in the paper, or v (Salimans & Ho, arXiv 2202.00512),
                with which the overall colour is right after far fewer steps.
            noise_schedule: ``linear`` (Ho et al., arXiv 2006.11239) or the cosine of Nichol & Dhariwal
                (arXiv 2102.09672).
            noise_steps: steps of the noise schedule.
            class_dropout: probability with which an image loses its class in training.
            ema: decay of the running average of the weights; it grows up to this value in the first steps.
            gradient_checkpointing: compute the inside of blocks again in the backward pass, which saves memory.
            lr: the learning rate.
            optimizer: the optimizer, everything but its learning rate.
            scheduler: learning-rate scheduler; None keeps the rate.
            scheduler_interval: whether the scheduler counts epochs or optimizer steps.
            grid_images: images a class in the picture that is drawn after each validation; 0 for no picture.
            grid_steps: denoising steps of that picture (DDIM).
            grid_weight: guidance in that picture, see :func:`draw_classes`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if len(channels) != len(attention) or not channels:
            raise ConfigError(
                f"diffusion.channels has {len(channels)} levels and diffusion.attention {len(attention)}: give as many."
            )
        if not 0 <= class_dropout < 1:
            raise ConfigError(
                f"diffusion.class_dropout must lie in [0, 1), but is {class_dropout}: set it to 0.1, say."
            )
        if not 1 <= grid_steps <= noise_steps:
            raise ConfigError(
                f"{KEY}.grid_steps must lie between 1 and {noise_steps}, but is {grid_steps}: set it to 25."
            )
        super().__init__(ema, optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.unet: nn.Module | None = None

    # Building

    @property
    def learner(self) -> nn.Module:
        """The network that is averaged."""
        assert self.unet is not None
        return self.unet

    def configure_model(self) -> None:
        """Build the network and its average, once.

        Raises:
            ConfigError: the number of classes or the size is known nowhere, or the size does not fit the levels.
        """
        if self.unet is not None:
            return
        self.settle_sizes()
        with torch.device("cpu"):
            self.unet = self._new_network().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.unet).requires_grad_(False)
        if self.hparams["gradient_checkpointing"]:
            self.unet.enable_gradient_checkpointing()  # type: ignore[operator]

    def _new_network(self) -> nn.Module:
        import diffusers

        make: Any = diffusers.UNet2DModel
        settings = self.hparams
        self._check_size(settings["size"])
        down = tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in settings["attention"])
        up = tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(settings["attention"]))
        network: nn.Module = make(
            sample_size=settings["size"],
            block_out_channels=tuple(settings["channels"]),
            layers_per_block=settings["layers_per_block"],
            down_block_types=down,
            up_block_types=up,
            add_attention=any(settings["attention"]),
            norm_num_groups=math.gcd(32, *settings["channels"]),
            dropout=settings["dropout"],
            num_class_embeds=settings["num_classes"] + 1,
        )
        return network

    @cached_property
    def noise_schedule(self) -> Any:
        """The diffusers scheduler with the noise that this model learns to remove."""
        import diffusers

        make: Any = diffusers.DDPMScheduler
        return make(
            num_train_timesteps=self.hparams["noise_steps"],
            beta_schedule=self.hparams["noise_schedule"],
            prediction_type=self.hparams["prediction"],
            timestep_spacing="trailing",  # drawing starts where nothing but noise is left (arXiv 2305.08891)
        )

    def check_fit(self, data: Any) -> None:
        """Refuse data that cannot be learnt.

        Raises:
            ConfigError: see :class:`ClassConditional`, or the size does not fit the levels.
        """
        super().check_fit(data)
        self._check_size(self.hparams["size"] or int(data.image_size))

    def _check_size(self, size: int) -> None:
        halvings = len(self.hparams["channels"]) - 1
        if size % 2**halvings:
            raise ConfigError(
                f"diffusion.size={size} cannot be halved {halvings} times: set it to a multiple of {2**halvings}, or "
                "give fewer diffusion.channels."
            )

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of what the network predicts, over images whose class is dropped now and then."""
        image, label = pictures(self, batch, self.hparams["size"]), batch["label"]
        dropped = torch.rand(len(label), device=label.device) < self.hparams["class_dropout"]
        label = label.masked_fill(dropped, self.hparams["num_classes"])
        noise = torch.randn_like(image)
        time = torch.randint(self.hparams["noise_steps"], (len(image),), device=image.device)
        loss = self._loss(self.unet, image, label, noise, time)
        self.epoch_loss.add(loss, len(image))
        return loss

    def _loss(self, network: Any, image: Tensor, label: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        schedule = self.noise_schedule
        noisy = schedule.add_noise(image, noise, time).contiguous(memory_format=torch.channels_last)
        target = noise if self.hparams["prediction"] == "epsilon" else schedule.get_velocity(image, noise, time)
        return F.mse_loss(network(noisy, time, label, return_dict=False)[0].float(), target)

    # Validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Error of the averaged network, for noise and times that only depend on the batch."""
        if dataloader_idx:  # a watched test set is for classifiers
            return
        image = pictures(self, batch, self.hparams["size"])
        # drawn on the CPU, where a seed means the same on every machine
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        time = torch.randint(self.hparams["noise_steps"], (len(image),), generator=generator).to(image.device)
        loss = self._loss(self.average, image, batch["label"], noise, time)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(image), add_dataloader_idx=False)

    def draw_grid(self) -> None:
        """Draw a row of images a class, see :class:`ClassConditional`."""
        import diffusers

        make: Any = diffusers.DDIMScheduler
        settings, rows = self.hparams, min(self.hparams["num_classes"], 10)
        labels = torch.arange(rows, device=self.device).repeat_interleave(settings["grid_images"])
        generators = [torch.Generator().manual_seed(number) for number in range(len(labels))]
        scheduler = make.from_config(self.noise_schedule.config)
        with self.trainer.precision_plugin.forward_context():
            images = draw_classes(
                self.average, scheduler, labels, generators, settings["grid_steps"], settings["grid_weight"]
            )
        save_grid(self, images, settings["grid_images"])

    # Results

    def write(self, folder: Path, data: Any) -> None:
        """Write the averaged network as a folder that diffusers reads, with a model card.

        Args:
            folder: where to; a new folder.
            data: the data module, for the names of the classes.
        """
        assert self.average is not None
        average: Any = self.average
        average.save_pretrained(folder / "unet")
        self.noise_schedule.save_pretrained(folder / "scheduler")
        own = self.hparams
        self.write_card(folder, data, CARD, prediction=own["prediction"], nothing=own["num_classes"])
