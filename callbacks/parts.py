"""The parts of a run, made from its configuration: modules, synthesis, dashboard and Trainers."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from callbacks.chain import Fit, Stage
from callbacks.checkpoints import SafeCheckpointIO
from callbacks.dashboard import Dashboard
from callbacks.emissions import Meter
from callbacks.loggers import make_loggers
from callbacks.results import read_rows
from callbacks.stage import load_trained
from callbacks.synthesize import SynthesizeCallback
from datamodules import DebiasDataModule
from lightning_modules import ConfigError

# where modules that name their settings in errors take themselves to stand in the configuration
USUAL_PLACE = re.compile(r"\b(?:model|diffusion|gan|adapted)\.(?=(\w+))")


class Parts:
    """Makes the parts of a run, anew at every call.

    Args:
        parser: The parser of the subcommand.
        settings: What it has read.
        run_dir: The run folder.
        meter: Measures what the synthesis costs.
    """

    def __init__(self, parser: LightningArgumentParser, settings: Namespace, run_dir: Path, meter: Meter) -> None:
        self.parser = parser
        self.settings = settings
        self.run_dir = run_dir
        self.meter = meter

    @property
    def is_rehearsal(self) -> bool:
        """Whether only a batch of everything is tried (``trainer.fast_dev_run``), which leaves no checkpoint."""
        return bool(self.settings.trainer.fast_dev_run)

    def dump(self) -> str:
        """The whole configuration as YAML."""
        return str(self.parser.dump(self.settings, skip_unset=False, skip_validation=True))

    def make(self, key: str) -> Any:
        """Instantiate one part of the configuration.

        Args:
            key: Its key, as ``data`` or ``biased``.

        Raises:
            ConfigError: The configuration lacks it, or what it says is wrong.
        """
        if self.settings.get(key) is None:
            raise ConfigError(
                f"{key}: a stage needs this key and the configuration lacks it; add `{key}: class_path: …`"
            )
        with self.naming(key):
            try:
                return self.parser.instantiate(Namespace({key: self.settings[key]}), instantiate_groups=False)[key]
            except ValueError as error:  # jsonargparse wraps what a constructor raises
                cause: BaseException | None = error
                while cause is not None and not isinstance(cause, ConfigError):
                    cause = cause.__cause__
                raise cause or error from None

    @contextmanager
    def naming(self, key: str) -> Iterator[None]:
        """Have errors of a module name its settings where they stand: it knows only where they usually do.

        Args:
            key: Where it stands, as ``biased``.
        """
        try:
            yield
        except ConfigError as error:
            own = self.settings[key].get("init_args") or {}
            text = USUAL_PLACE.sub(lambda found: f"{key}." if found[1] in own else found[0], str(error))
            error.args = (text,)
            raise

    def trained(self, fit: Fit, data: DebiasDataModule) -> LightningModule:
        """Make the module that an earlier fit has trained; in a rehearsal, an untrained one that fits the data."""
        module = self.make(fit.stage.module)
        module.stage_name = fit.name
        if not self.is_rehearsal:
            return load_trained(module, fit.last)
        for key, value in (("num_classes", data.num_classes), ("size", data.image_size)):
            if key in module.hparams and module.hparams[key] is None:
                module.hparams[key] = value
        module.configure_model()
        return cast(LightningModule, module.eval())

    def synthesis(self, stage: Stage) -> SynthesizeCallback:
        """Make the callback that synthesises for a stage."""
        callback = SynthesizeCallback(**self.make("synthesize"))
        callback.directory = self.run_dir / "synthetic"
        callback.when = "start" if stage.synthesize == "start" else "end"
        callback.draw = stage.synthesize != "captions"
        callback.meter = self.meter
        if callback.seed is None:
            callback.seed = int(self.settings.seed_everything)
        if self.is_rehearsal:
            callback.top_k = callback.images = 1
        return callback

    def dashboard(self, fit: Fit, fits: list[Fit]) -> Dashboard:
        """Make the callback that shows a fit, which knows the results of those before it."""
        dashboard = Dashboard(**self.settings.dashboard.as_dict())
        dashboard.settings = self.dump()
        dashboard.synthetic = None if fit.stage.synthesize == "no" else self.run_dir / "synthetic"
        dashboard.earlier = read_rows("test", fits[: fits.index(fit)])
        return dashboard

    def trainer(
        self, name: str, directory: Path, callbacks: list[Callback], stage: Stage | None = None, logs: bool = True
    ) -> Trainer:
        """Make a Trainer whose every file is in ``directory``, but for those of W&B, which a whole chain shares.

        Args:
            name: Name of the fit or of the subcommand.
            directory: Its folder.
            callbacks: Those that come after the user's own.
            stage: Whose settings replace those of the chain; None outside a chain.
            logs: Whether it has loggers.

        Raises:
            ConfigError: A setting of the Trainer or of a logger is wrong, or cannot work here.
        """
        try:
            trainer = self._trainer(name, directory, callbacks, stage, logs and not self.is_rehearsal)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # of settings that do not fit
            raise ConfigError(f"trainer: {' '.join(str(error).split())[:300]}") from error
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ConfigError(
                "trainer.strategy: spawn and fork strategies lose what child processes learn; use ddp or torchrun"
            )
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise ConfigError(
                f"trainer.strategy: {type(trainer.strategy).__name__} takes the network to pieces, and mining needs it"
                " whole; use ddp"
            )
        started = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's word
        if started > trainer.world_size:
            raise ConfigError(
                f"trainer.devices: {started} processes were started and each would be a run of its own in one folder;"
                " set trainer.strategy=ddp, and trainer.devices to the processes of a machine"
            )
        return trainer

    def _trainer(
        self, name: str, directory: Path, callbacks: list[Callback], stage: Stage | None, logs: bool
    ) -> Trainer:
        spec = self.settings.trainer.clone()
        spec.update(Namespace(stage.trainer if stage else {}))
        if stage and stage.max_epochs is not None:
            spec.max_epochs = stage.max_epochs
        spec.default_root_dir = directory
        loggers = spec.pop("logger")
        parts = self.parser.instantiate(Namespace(trainer=spec), instantiate_groups=False)
        arguments = parts.trainer.as_dict()
        own = arguments.pop("callbacks") or []
        own = own if isinstance(own, list) else [own]
        plugins = arguments.pop("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(SafeCheckpointIO())
        places = (self.run_dir, name, directory)
        logger = make_loggers(loggers, *places, of_chain=stage is not None) if logs else False
        return Trainer(**arguments, logger=logger, plugins=plugins, callbacks=[*own, *callbacks])
