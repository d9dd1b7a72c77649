"""The loggers of a stage or a command: everything they write is in the run folder, unless the user names another."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from callbacks.synthesis.part import digest

# What Lightning's own arguments default to: not the user's choice.
DEFAULTS = {"project": "lightning_logs", "name": "lightning_logs", "save_dir": ".", "prefix": ""}


class TensorBoard(TensorBoardLogger):
    """TensorBoard with one folder of events a stage, which all attempts share: ``tensorboard --logdir RUN_DIR/stages``.

    Args:
        save_dir: Where to; the default is the folder of the stage.
        name: Folder below it.
        version: Folder below that.
        **kwargs: For ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(
        self, save_dir: str = ".", name: str = "lightning_logs", version: str | None = None, **kwargs: Any
    ) -> None:
        # the hyper-parameters are shown with the metrics of the test, which are known in the end
        super().__init__(save_dir, name, version, default_hp_metric=False, **kwargs)


class ChainWandb(WandbLogger):
    """The one W&B run of a chain, as one of its stages writes into it.

    The stage stands before the names of its curves, and its hyper-parameters are below it.

    Args:
        stage: Name of the stage.
        directory: Its folder, where other parts of Lightning write what belongs beside the logs.
        **kwargs: For the logger of Lightning; a ``prefix`` comes first.
    """

    def __init__(self, stage: str, directory: Path, **kwargs: Any) -> None:
        kwargs["prefix"] = "-".join(filter(None, (kwargs.get("prefix"), stage)))
        super().__init__(**kwargs)
        self._stage, self._directory = stage, directory

    @property
    def save_dir(self) -> str:
        """The folder of the stage."""
        return str(self._directory)

    def log_hyperparams(self, params: Any) -> None:
        """Show the hyper-parameters of the stage, which others of the chain have too."""
        super().log_hyperparams({self._stage: dict(params)})


def make_loggers(
    specs: Any, run_dir: Path, name: str, directory: Path, of_chain: bool
) -> list[Logger] | Literal[False]:
    """Make the loggers of a stage; CSV is the default.

    Args:
        specs: What the configuration has: False, None or True for the default, a logger's class and arguments, or a
            list of such.
        run_dir: The run folder; the W&B run of the chain is named after it.
        name: Name of the stage, or of the command that looks at a trained model.
        directory: Its folder.
        of_chain: Whether it is a stage, all of which share one W&B run.

    Returns:
        The loggers, False for none.
    """
    if specs is False:
        return False
    if specs in (None, True):
        attempts = len(list(directory.glob("logs/attempt-*")))
        return [CSVLogger(directory, name="logs", version=f"attempt-{attempts}")]
    return [_make(spec, run_dir, name, directory, of_chain) for spec in (specs if isinstance(specs, list) else [specs])]


def run_name(run_dir: Path) -> str:
    """What a run is called on a dashboard: its folder and those between it and ``runs``, as a sweep nests them."""
    place, runs = run_dir.resolve(), Path.cwd() / "runs"
    parts = place.relative_to(runs).parts if runs in place.parents else (place.name,)
    return re.sub(r"[^\w.-]", "_", "-".join(parts), flags=re.ASCII)


def finish(loggers: Sequence[Logger], is_last: bool) -> None:
    """End the logs of a stage.

    Args:
        loggers: Those of the stage.
        is_last: Whether the chain ends with it: until then its W&B run stays open, and the next stage goes on in it.
    """
    for logger in loggers:
        logger.finalize("success")
        if is_last and isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _make(spec: Namespace, run_dir: Path, name: str, directory: Path, of_chain: bool) -> Logger:
    arguments = {k: v for k, v in spec.get("init_args", Namespace()).as_dict().items() if v is not None}
    arguments |= spec.get("dict_kwargs", {}) or {}
    kind = spec.class_path.rpartition(".")[2]
    if kind in ("WandbLogger", "TensorBoard", "TensorBoardLogger"):
        arguments = {key: value for key, value in arguments.items() if DEFAULTS.get(key) != value}
    if kind == "WandbLogger":
        return _make_wandb(arguments, run_dir, name, directory, of_chain)
    if kind in ("TensorBoard", "TensorBoardLogger"):
        shared = {"name": run_name(run_dir), "version": name}
        own = shared if "save_dir" in arguments else {"name": "", "version": "tensorboard"}
        arguments = {"save_dir": str(directory), **own, **arguments}
    logger: Logger = instantiate_class((), {"class_path": spec.class_path, "init_args": arguments})
    return logger


def _make_wandb(arguments: dict[str, Any], run_dir: Path, name: str, directory: Path, of_chain: bool) -> WandbLogger:
    """Stages write into the W&B run of their chain, other commands into one of their own."""
    run = run_name(run_dir) if of_chain else f"{run_name(run_dir)}-{name}"
    # sweeps have many folders of one name: the id is that of the place; W&B takes 128 characters with what follows it
    own_id = f"{run[:64]}-{digest(str(run_dir.resolve()))[:8]}"
    ours = {"project": "diffubias", "name": run, "id": own_id, "resume": "allow"}
    arguments = {**ours, "save_dir": str(run_dir if of_chain else directory), **arguments}
    Path(arguments["save_dir"]).mkdir(parents=True, exist_ok=True)
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # tables and artifacts on their way
        os.environ.setdefault(variable, str(run_dir.resolve() / "wandb"))
    if not of_chain:
        return WandbLogger(**arguments)
    arguments.setdefault("checkpoint_name", f"model-{own_id}-{name}")
    return ChainWandb(name, directory, **arguments, experiment=_open_run(arguments["id"]))


def _open_run(own_id: str) -> Any:
    """The W&B run of this id, if the stage before has left it open."""
    import wandb

    return wandb.run if wandb.run is not None and wandb.run.id == own_id else None
