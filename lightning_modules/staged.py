"""What a chain asks of every module that it fits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from .errors import ConfigError

_STAGE_KEY = "diffubias_stage"


class StagedModule(L.LightningModule):
    """A module that can be fitted as a stage of a chain.

    Attributes:
        helper_names: the names of the helpers that a method asks for; a stage's ``uses`` may give no others.
        stage_name: the stage of a chain that this module belongs to.
        helpers: trained modules of earlier stages, by the name that the stage's ``uses`` gives them; they are no part
            of this module, of its checkpoint or of its optimizer.
    """

    helper_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        """Start without a stage and without helpers; a subclass saves its settings itself.

        Args:
            optimizer: makes the optimizer; its rate is the setting ``lr``.
            scheduler: makes the scheduler of that rate, which counts what the setting ``scheduler_interval`` says.
        """
        super().__init__()
        self._make_optimizer = cast(Callable[..., torch.optim.Optimizer], optimizer)
        self._make_scheduler = scheduler
        self.stage_name: str = ""
        self.helpers: dict[str, list[Any]] = {}

    def check(self, data: Any) -> None:
        """Refuse at once, before hours of work, what cannot be built or fitted; the module is used for nothing else.

        Args:
            data: the data module, set up.

        Raises:
            ConfigError: it cannot.
        """

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Every fit begins with it; the command line does it before the first stage, so that no stage is fitted in vain.

        Args:
            data: the data module, set up, with the source of the stage.

        Raises:
            ConfigError: a helper is missing or means nothing to this module, or the data lack labels that it needs.
        """
        if unknown := sorted(set(self.helpers) - set(self.helper_names)):
            raise ConfigError(
                f"uses: {', '.join(unknown)} means nothing to {type(self).__name__}: it knows "
                f"{', '.join(self.helper_names) or 'no helpers'}."
            )

    def make_room(self) -> None:
        """Take off the GPU what a move of the module would not: parts that stay as they are."""

    def export(self, folder: Path, data: Any) -> None:
        """Write the result as a folder that other programs read, if there is such a format.

        Args:
            folder: where to; nothing happens if it is there.
            data: the data module that the module was fitted on.
        """

    def setup(self, stage: str) -> None:
        """Check what a fit is given.

        Raises:
            ConfigError: see :meth:`check_fit`.
        """
        if stage == "fit":
            self.check_fit(getattr(self._trainer, "datamodule", None))

    @property
    def monitor(self) -> str | None:
        """Name of the logged value by whose maximum the best epoch is chosen; None where the last one is the result."""
        return None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over all trainable parameters, with the scheduler if there is one."""
        try:
            optimizer = self._make_optimizer(self.parameter_groups(), lr=self.hparams["lr"])
            scheduler = self._make_scheduler(optimizer) if self._make_scheduler else None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model.lr, model.optimizer or model.scheduler does not fit: {error}") from error
        if scheduler is None:
            return optimizer
        # torch's own ReduceLROnPlateau waits for a value to fall and does not say which
        falls = getattr(scheduler, "mode", "max") == "min" or self.monitor is None
        monitor = getattr(scheduler, "monitor", "train/loss" if falls else self.monitor)
        stepping = {"scheduler": scheduler, "interval": self.hparams["scheduler_interval"], "monitor": monitor}
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": stepping})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer gets: groups of trainable parameters, with settings that differ from its own."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the stage."""
        checkpoint[_STAGE_KEY] = self.stage_name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage, which might load without a word.

        Raises:
            ConfigError: the checkpoint was written by another stage.
        """
        stage = checkpoint.get(_STAGE_KEY, "")
        if stage and self.stage_name and stage != self.stage_name:
            raise ConfigError(
                f"the checkpoint belongs to stage '{stage}', not to '{self.stage_name}': give that stage's checkpoint."
            )
