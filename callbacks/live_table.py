"""The table that grows on the console while a classifier is fitted."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.table import METRICS
from lightning_modules import Classifier

COLUMNS = ("epoch", "train loss", *(name.replace("_", " ") for name in METRICS))


class LiveTable(Callback):
    """Print a line at the end of every validation: epoch, loss of the training so far in it, and metrics in per cent.

    A dash stands for what is not known. The lines are printed past the progress bar, if there is one, on rank 0.

    Args:
        stage: Name of the stage, which the lines begin with.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._has_begun = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of this validation, and the header before the first."""
        if trainer.sanity_checking or not isinstance(pl_module, Classifier):
            return
        metrics = trainer.callback_metrics  # on every rank: reading it may reduce over them
        means = pl_module.train_means
        values = [metrics.get(f"val/{name}") for name in METRICS]
        shown = ["-" if value is None else f"{100 * float(value):.1f}" for value in values]
        if not self._has_begun:
            pl_module.print(self._line("validation, %", COLUMNS))
        self._has_begun = True
        loss = "-" if means is None else f"{float(means[0]):.4f}"
        pl_module.print(self._line(self.stage, [str(trainer.current_epoch), loss, *shown]))

    def _line(self, first: str, cells: Sequence[str]) -> str:
        """Lay out a line that fits a terminal of 80 columns."""
        columns = zip(cells, COLUMNS, strict=True)
        return f"{first:<{max(16, len(self.stage))}}" + "".join(f"{cell:>{len(name) + 2}}" for cell, name in columns)
