"""What a stage of a chain needs around its fit: reproducible epochs, starting weights, whole files, a marker."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor

from callbacks.checkpoints import read_checkpoint
from lightning_modules.errors import ConfigError


class StageCallback(Callback):
    """Make one stage of a chain go on where it was stopped, with the same result as if it had not been.

    Args:
        directory: The stage's folder; the marker ``fit_done`` is written there when training is over.
        seed: Seed of the stage; epoch e of rank r draws from a stream that depends on (seed, e, r) alone.
        init: Checkpoint whose classifier (the weights of ``network``) a fresh fit starts from; None keeps the module's
            own initialisation.
    """

    def __init__(self, directory: Path, seed: int, init: Path | None = None) -> None:
        self.marker = directory / "fit_done"
        self.seed = seed
        self.init = init
        self.has_trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load starting weights into a fit that begins."""
        if self.init is not None and trainer.current_epoch == 0 and trainer.ckpt_path is None:
            load_classifier(pl_module, self.init)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Re-seed at an epoch's first batch, so that an epoch after a resume is the epoch it would have been."""
        if batch_idx > 0:  # no earlier hook will do: the loader draws a number at a point that differs after a resume
            return
        stream = (self.seed * 100_003 + trainer.current_epoch) * 1_009 + trainer.global_rank
        seed_everything(stream % 2**32, verbose=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that this attempt has trained."""
        self.has_trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the marker, unless the fit was a rehearsal; a fit that was broken off does not come here.

        After a kill between the last checkpoint and the marker, the next fit has nothing to train and leaves it. Then
        averaged weights take the place of the last ones here, since Lightning ends no training that did not begin.
        """
        for average in () if self.has_trained else trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(average, WeightAveraging):
                average.on_train_end(trainer, pl_module)
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and not rehearsal and not self.marker.exists():
            self.marker.parent.mkdir(parents=True, exist_ok=True)
            self.marker.touch()


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, of the epoch with the highest value of a metric; the folder may be moved between two fits.

    Of several such epochs it is the one with the highest accuracy, and the first of those: as long as one small group
    is wrong throughout, all epochs have a worst group of 0, the very first one too.

    Args:
        folder: Where to.
        monitor: The metric.
        tie_break: The metric that decides between epochs that are equal in the first; a module need not log it.
    """

    def __init__(self, folder: Path, monitor: str, tie_break: str = "val/accuracy") -> None:
        super().__init__(folder, "best", monitor=monitor, mode="max", enable_version_counter=False)
        self.tie_break = tie_break
        self.tie_value = -math.inf

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Say whether the present epoch is the best one so far, on all ranks alike."""
        value = float(trainer.callback_metrics.get(self.tie_break, -math.inf))
        better = super().check_monitor_top_k(trainer, current)
        if not better and current is not None:
            tied = bool(current == self.best_model_score) and value > self.tie_value
            better = trainer.strategy.reduce_boolean_decision(tied)
        if better:
            self.tie_value = value
        return better

    def state_dict(self) -> dict[str, Any]:
        """Say by what the best epoch beat those that are equal to it."""
        return {**super().state_dict(), "tie_value": self.tie_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value over, which Lightning forgets where the folder has another place than before."""
        self.tie_value = state_dict["tie_value"]

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        places: dict[str, Any] = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        places["best_k_models"] = {here(path): value for path, value in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **places, "dirpath": self.dirpath})


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, written after some epochs and after the last one, from which a stopped fit goes on.

    It knows whether the fit was over, which the number of epochs does not tell where a fit ends early.

    Args:
        folder: Where to.
        every: Epochs between two of them. A fit that goes on from an earlier epoch computes the rest again, with the
            same result.
    """

    def __init__(self, folder: Path, every: int = 1) -> None:
        super().__init__(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.every = every
        self.over = False

    def state_dict(self) -> dict[str, Any]:
        """Say whether the fit is over."""
        return {**super().state_dict(), "over": self.over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Learn whether the fit is over."""
        super().load_state_dict(state_dict)
        self.over = state_dict["over"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no more if the fit is over."""
        trainer.should_stop = trainer.should_stop or self.over

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it if it is its turn."""
        epochs, steps = trainer.current_epoch + 1, trainer.global_step
        self.over = trainer.should_stop or epochs == trainer.max_epochs or steps == trainer.max_steps
        if self.over or epochs % self.every == 0:
            super().on_train_epoch_end(trainer, pl_module)


def load_classifier(module: LightningModule, checkpoint: Path) -> None:
    """Give the ``network`` of a module the weights that ``network`` has in a checkpoint, and nothing else of it.

    Raises:
        ConfigError: The checkpoint holds no such network, or another one.
    """
    if not checkpoint.is_file():
        raise ConfigError(
            f"init_from: there is no {checkpoint}: no epoch of that stage was validated, so set init_epoch to last"
        )
    state = read_checkpoint(checkpoint)["state_dict"]
    prefix = "network."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    try:
        module.get_submodule("network").load_state_dict(weights)
    except (AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"init_from: {checkpoint} holds the weights of another network: give both stages the same backbone"
        ) from error


def load_trained(module: LightningModule, checkpoint: Path) -> LightningModule:
    """Turn a module that was just made into the one that a finished fit left, on the CPU and in evaluation mode.

    What only training needs and a new module lacks, such as the losses of single samples, is left out.

    Args:
        module: A module with the settings of that fit; pretrained weights that it names are not fetched.
        checkpoint: What the fit left.

    Returns:
        The module.

    Raises:
        ConfigError: The checkpoint was written by a module with other settings.
    """
    content = read_checkpoint(checkpoint)
    saved = content.get(module.CHECKPOINT_HYPER_PARAMS_KEY, {})
    if "weights" in saved:
        module.hparams["weights"] = saved["weights"]
    module.on_load_checkpoint(content)
    try:
        missing = module.load_state_dict(content["state_dict"], strict=False).missing_keys
    except RuntimeError as error:
        raise ConfigError(f"uses: {checkpoint} holds the weights of another network: give another run_dir") from error
    if missing:
        raise ConfigError(f"uses: {checkpoint} was written by a module without {missing[0]}: give another run_dir")
    return module.eval()
