"""A run whose data and models can be used, as the command line opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from lightning.pytorch import LightningModule

from callbacks.chain import Fit
from callbacks.report.missing import NothingToShowError
from callbacks.synthesize import SynthesizeCallback
from datamodules import DebiasDataModule
from lightning_modules import Classifier


@dataclass(frozen=True)
class OpenedRun:
    """The parts of a run, made from its configuration.

    Attributes:
        data: The data module; it reads its splits when they are asked for.
        fits: The chain.
        load: Makes the module that a finished fit left.
        synthesis: Makes the callback that mined, captioned and drew.
        device: Where models compute.
    """

    data: DebiasDataModule
    fits: list[Fit]
    load: Callable[[Fit], LightningModule]
    synthesis: Callable[[], SynthesizeCallback]
    device: torch.device

    def classifier(self, stage: str) -> Classifier:
        """Return the trained classifier of a stage, on the device and in evaluation mode.

        Args:
            stage: Name of the fit.

        Raises:
            NothingToShowError: That stage has no finished classifier.
            ConfigError: Its checkpoint does not fit.
        """
        fit = next((own for own in self.fits if own.name == stage and own.last.is_file()), None)
        if fit is None:
            raise NothingToShowError(f"The stage {stage} has left no checkpoint.")
        return cast(Classifier, self.load(fit)).to(self.device).eval()
