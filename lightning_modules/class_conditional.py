"""What the modules share that learn to draw a class, and draw with the running average of their weights."""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from .classifier import Batch
from .errors import ConfigError
from .generative import CLASSES, GenerativeModule, move_average


class ClassConditional(GenerativeModule):
    """A network that draws images of a class, and its running average, which is what draws and is exported.

    A subclass has the settings ``num_classes``, ``size``, ``ema`` and ``grid_images``, and sets ``average`` when it is
    built.

    Attributes:
        average: the running average of the weights of :attr:`learner`.
    """

    def __init__(self, ema: float, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        """Start without networks; see :class:`GenerativeModule`.

        Args:
            ema: decay of the running average of the weights; it grows up to this value in the first steps.
            optimizer: makes the optimizer.
            scheduler: makes the scheduler of its rate.

        Raises:
            ConfigError: the decay lies outside its range.
        """
        if not 0 <= ema < 1:
            raise ConfigError(f"{self.key}.ema must lie in [0, 1), but is {ema}: the larger, the slower it follows.")
        super().__init__(optimizer, scheduler)
        self.average: nn.Module | None = None
        self._averaged_at = 0

    @property
    @abstractmethod
    def learner(self) -> nn.Module:
        """The network that is averaged."""

    def settle_sizes(self) -> None:
        """Ask the data module for the number of classes and the size, where they are not set.

        Raises:
            ConfigError: there is none to ask.
        """
        data = getattr(self._trainer, "datamodule", None)
        for own, its in (("num_classes", "num_classes"), ("size", "image_size")):
            if self.hparams[own] is None:
                if data is None:
                    raise ConfigError(f"{self.key}.{own} is not set and there is no data module to ask: set it.")
                self.hparams[own] = int(getattr(data, its))

    def on_train_start(self) -> None:
        """The average of a fit that goes on has seen all its steps so far."""
        self._averaged_at = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Move the average, once an optimizer step."""
        step = self.global_step
        if step == self._averaged_at:
            return
        assert self.average is not None
        move_average(self.average, self.learner, self.hparams["ema"], step)
        self._averaged_at = step

    @rank_zero_only
    def on_validation_epoch_end(self) -> None:
        """Draw some images of every class, see :meth:`draw_grid`."""
        if not self.trainer.sanity_checking and self.hparams["grid_images"]:
            self.draw_grid()

    @abstractmethod
    def draw_grid(self) -> None:
        """Draw a row of images a class into ``samples/`` of the stage's folder, and show it to the loggers.

        The images start from the same random numbers in every epoch. The state of the global ones stays as it is.
        """

    def write_card(self, folder: Path, data: Any, card: str, **values: Any) -> None:
        """Write the model card and the names of the classes beside the weights.

        Args:
            folder: where to.
            data: the data module that the module was fitted on.
            card: the text, with places for ``values``, and for ``parameters`` in millions, ``size``, ``steps``,
                ``data`` and ``classes``.
            **values: what else stands in it.
        """
        assert self.average is not None
        text = card.format(
            parameters=sum(own.numel() for own in self.average.parameters()) / 1e6, size=self.hparams["size"],
            steps=self.global_step, data=type(data).__name__,
            classes=", ".join(f"{label} {name}" for label, name in enumerate(data.class_names)), **values,
        )  # fmt: skip
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / CLASSES).write_text(json.dumps(list(data.class_names)), encoding="utf-8")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the number of classes and the size where they are not set.

        Raises:
            ConfigError: see :class:`GenerativeModule`.
        """
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in ("num_classes", "size"):
            if self.hparams[name] is None:
                self.hparams[name] = saved.get(name)
        super().on_load_checkpoint(checkpoint)
