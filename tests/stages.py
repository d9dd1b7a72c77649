"""A module and callbacks that show what the stages of a chain hand on and keep."""

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_modules import Classifier, DebiasedModule
from tests.faults import FaultyCallback

HANDED = "handed.pt"


class Helped(DebiasedModule):
    """Saves the weights of its helpers when its fit begins, if they are as they have to be."""

    helper_names = ("teachers",)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        modules = [helper for own in self.helpers.values() for helper in own]
        assert all(isinstance(helper, Classifier) and not helper.training for helper in modules)
        assert all(value.device.type == "cpu" for helper in modules for value in helper.state_dict().values())
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({key: [dict(h.state_dict()) for h in own] for key, own in self.helpers.items()}, folder / HANDED)


class Spoiler(FaultyCallback):
    """Takes the network's weights from it before the last epoch is validated."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.zero_()


class Waiting(pl.Callback):
    """Takes its time after the first epoch, unless an environment variable has it hurry."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch > 0 and "DIFFUBIAS_HURRY" not in os.environ:
            time.sleep(1)
