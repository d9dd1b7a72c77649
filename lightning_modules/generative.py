"""What the modules share that learn to draw."""

import logging
import math
import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.utils import make_grid, save_image

from .classifier import Batch
from .errors import ConfigError, TrainingError
from .pretrained import quieten
from .staged import StagedModule

_log = logging.getLogger("diffubias")
CLASSES = "classes.json"
CELL = 64  # least side of an image in the picture of samples, in pixels


def check_trainer(module: L.LightningModule) -> None:
    """Refuse Trainers that a module which learns to draw cannot be fitted with.

    Raises:
        ConfigError: weights in half precision, whose small steps are lost.
    """
    trainer = module.trainer
    if str(trainer.precision) in ("bf16-true", "16-true"):
        raise ConfigError(
            f"trainer.precision={trainer.precision} loses the small steps of {type(module).__name__}: set bf16-mixed."
        )


def pictures(module: L.LightningModule, batch: Batch, size: int) -> Tensor:
    """Images [B, 3, size, size] in [-1, 1] of a batch that the module's data module has normalised for classifiers."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    image = batch["image"]
    mean, std = (_column(tuple(values), image.device, image.dtype) for values in (data.mean, data.std))
    image = (image * std + mean) * 2 - 1
    if image.shape[-1] != size:
        image = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
    return image


class GenerativeModule(StagedModule):
    """What the modules share that learn to draw or to write: checks of a fit, the loss of an epoch, whole exports.

    Attributes:
        key: the module's place in the configuration, to name in errors.
        network_settings: settings that a checkpoint must agree on.
    """

    key: ClassVar[str] = "diffusion"
    network_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        """Start without samples; see :class:`StagedModule`."""
        super().__init__(optimizer, scheduler)
        self.epoch_loss = EpochLoss()

    def setup(self, stage: str) -> None:
        """Check what a fit is given.

        Raises:
            ConfigError: see :meth:`check_fit` and :func:`check_trainer`.
        """
        super().setup(stage)
        if stage == "fit":
            check_trainer(self)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss.

        Raises:
            TrainingError: it is no finite number.
        """
        self.epoch_loss.log(self, self.key)

    def export(self, folder: Path, data: Any) -> None:
        """Write the result where it is not there yet: the folder is whole or not there at all.

        Args:
            folder: where to.
            data: the data module that the module was fitted on.
        """
        if folder.exists():
            return
        quieten()
        part = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(part, ignore_errors=True)
        self.write(part, data)
        part.rename(folder)

    @abstractmethod
    def write(self, folder: Path, data: Any) -> None:
        """Write the result into a new folder, see :meth:`export`."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network for the weights.

        Raises:
            ConfigError: see :class:`StagedModule`, or the checkpoint was written with other settings.
        """
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in self.network_settings:
            if name in saved and saved[name] != self.hparams[name]:
                raise ConfigError(
                    f"the checkpoint has {self.key}.{name} {saved[name]}, but this run {self.hparams[name]}: make them "
                    "agree."
                )
        self.configure_model()


def find_texts(data: Any, split: str, templates: Sequence[str]) -> list[Sequence[str]]:
    """Texts of every real image of a split: those that the data have, else the templates with names filled in.

    Args:
        data: the data module, set up.
        split: ``train`` or ``val``.
        templates: sentences for images without a text; ``{class}`` and ``{bias}`` stand for the names of the class and
            of the bias attribute, which is empty where it is not known.
    """
    labels, biases = (values.tolist() for values in data.split_labels(split))
    own = data.split_texts(split) or [()] * len(labels)
    filled = {
        (label, bias): [_fill(data, template, label, bias) for template in templates]
        for label, bias in set(zip(labels, biases, strict=True))
    }
    groups = zip(labels, biases, strict=True)
    return [texts or filled[group] for texts, group in zip(own, groups, strict=True)]


def _fill(data: Any, template: str, label: int, bias: int) -> str:
    name = data.bias_names[bias] if bias >= 0 else ""
    text = template.replace("{class}", data.class_names[label]).replace("{bias}", name)
    return " ".join(text.split())


@lru_cache
def _column(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values [3, 1, 1], copied to a device once."""
    return torch.tensor(values, device=device, dtype=dtype)[:, None, None]


class EpochLoss:
    """Mean loss of an epoch, summed up on the device, where reading it each step would make the host wait."""

    def __init__(self) -> None:
        """Start without samples."""
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, loss: Tensor, count: int) -> None:
        """Take the mean loss of a batch of so many samples."""
        total = loss.detach() * count
        self._sum = total if self._sum is None else self._sum + total
        self._count += count

    def log(self, module: L.LightningModule, key: str) -> None:
        """Log the mean as ``train/loss`` at the end of an epoch and start anew: a collective operation.

        Args:
            module: whose epoch it was.
            key: the module's place in the configuration, to name in errors.

        Raises:
            TrainingError: the mean is no finite number; all processes see the same value and stop together.
        """
        assert self._sum is not None
        own = torch.stack((self._sum, torch.full_like(self._sum, self._count)))
        sums: Tensor = module.trainer.strategy.reduce(own, reduce_op="sum")
        mean = sums[0] / sums[1]
        self._sum, self._count = None, 0
        if not math.isfinite(float(mean)):
            raise TrainingError(
                f"the training loss became {float(mean)} in epoch {module.current_epoch}: set a lower {key}.lr (now "
                f"{module.hparams['lr']:g}) or trainer.precision to 32-true."
            )
        module.log("train/loss", mean, prog_bar=True, sync_dist=True, batch_size=1)


def move_average(average: nn.Module, network: nn.Module, ema: float, step: int) -> None:
    """Move the running average of a network's weights after optimizer step ``step``, from 1.

    Its decay grows up to ``ema`` in the first steps, so that the start is soon forgotten.
    """
    update: Callable[..., None] = get_ema_multi_avg_fn(min(ema, step / (9 + step)))  # type: ignore[no-untyped-call]
    update(list(average.parameters()), list(network.parameters()), None)


def save_grid(module: L.LightningModule, images: Tensor, columns: int) -> None:
    """Write images as one picture into ``samples/`` of the stage's folder, and show it to the loggers.

    Args:
        module: who has drawn them.
        images: float [N, 3, H, W] in [0, 1], row after row.
        columns: images in a row.
    """
    # small images are enlarged, their pixels visible
    images = F.interpolate(images, scale_factor=max(1, CELL // images.shape[-1]))
    grid = make_grid(images, nrow=columns)
    folder = Path(module.trainer.default_root_dir) / "samples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, folder / f"epoch-{module.current_epoch:04d}.png")
    except OSError as error:  # a picture is not worth a run, and the other processes would wait for this one
        _log.warning("no picture of samples: %s", error)
    show_image(module.trainer, "samples", grid)


def show_image(trainer: L.Trainer, name: str, image: Tensor) -> None:
    """Hand an image float [3, H, W] in [0, 1] to the loggers that show images."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image.cpu(), trainer.global_step)
