"""diffubias: train image classifiers that do not take shortcuts, with synthetic images.

usage: python train.py {fit,validate,test,predict} --config configs/NAME.yaml [--KEY VALUE ...]

  fit        run the whole chain of the configuration; the same command goes on where it was stopped
  validate   validation metrics of a trained model
  test       test metrics of a trained model
  predict    predictions of a trained model, written as CSV into the run folder

  python train.py fit --config configs/miniature.yaml          the embedded default, offline, minutes
  python train.py fit --config configs/bar.yaml --data.root DIR --synthesize.top_k 50
  python train.py fit --config configs/bar.yaml --print_config  every setting, with its default
  python train.py fit -h                                        every setting, with its help text
"""

import sys

if __name__ == "__main__" and sys.argv[1:] in ([], ["-h"], ["--help"]):  # answer before the heavy imports
    print(__doc__)
    sys.exit(0)

import errno
import json
import logging
import os
import re
import shutil
import signal
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, instantiate_class
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import PredictionWriter, SafeCheckpointIO, StageCallback, SynthesizeCallback
from datamodules import DebiasDataModule
from lightning_modules import Classifier, ConfigError

log = logging.getLogger("diffubias")

# Settings that say how a run is carried out and not what it computes: they may change when a run goes on.
EXECUTION_KEYS = (
    "config", "run_dir", "ckpt_path", "weights_only",
    "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.logger",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.log_every_n_steps", "trainer.profiler",
    "trainer.fast_dev_run", "data.init_args.num_workers",
    "synthesize.captioner.init_args.download", "synthesize.generator.init_args.download",
    "synthesize.captioner.init_args.batch_size", "synthesize.generator.init_args.batch_size", "synthesize.strip",
)  # fmt: skip


@dataclass
class Stage:
    """One fit in the chain.

    Attributes:
        module: The configuration key of the module to fit: ``biased`` or ``model``.
        data: The training images: real, synthetic, or both.
        synthesize: When images are synthesised: not at all, before this fit, or after it.
        init_from: Name of an earlier stage whose weights this one starts from; None starts fresh.
        max_epochs: Epochs of this stage; None takes ``trainer.max_epochs``.
        trainer: Further Trainer arguments of this stage alone.
    """

    module: str = "model"
    data: Literal["real", "synthetic", "both"] = "real"
    synthesize: Literal["no", "start", "end"] = "no"
    init_from: str | None = None
    max_epochs: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


class OneLineParser(LightningArgumentParser):
    """Parser that answers a mistake with one line in place of the usage of two hundred arguments."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what is wrong, without what jsonargparse tried on the way, and leave with status 2."""
        noise = ("Subtypes", "Errors", "Given value", "Expected a <class 'NoneType'>", "Does not validate against")
        lines = [line.strip(" -") for line in message.splitlines()]
        text = " ".join(line for line in lines if line and not line.startswith(noise))
        # jsonargparse names the last part of a nested key only
        ends = tuple(f".{key}" for key in re.findall(r"(?:Parser key|Option) [\"'](\w+)[\"']", text))
        flags = [word.partition("=")[0] for word in sys.argv]
        text = "".join([*(f"{flag}: " for flag in flags if ends and flag.endswith(ends)), text])
        sys.exit(_complain(f"{text} (every setting: train.py fit -h, or --print_config)"))


class DebiasCLI(LightningCLI):
    """LightningCLI whose ``fit`` runs a chain of stages, each with a Trainer of its own, in one run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments that a chain has beyond trainer, model and data."""
        parser.add_argument("--run_dir", type=Path | None, default=None, help="Run folder; default runs/CONFIG_NAME.")
        parser.add_argument(
            "--stages", type=dict[str, Stage] | None, default=None, help="The chain; without it `model` is fitted once."
        )
        parser.add_subclass_arguments(LightningModule, "biased", required=False)
        parser.add_class_arguments(SynthesizeCallback, "synthesize", instantiate=False, sub_configs=True)

    def _parse_ckpt_path(self) -> None:
        """Leave flags alone: Lightning would let hyper-parameters of the checkpoint beat them."""

    def instantiate_classes(self) -> None:
        """Build what this subcommand needs and nothing else; ``fit`` builds modules and Trainers stage by stage."""
        self.cfg: Namespace = self.config[self.subcommand]
        self.run_dir = self._run_dir()
        self.config_init = self.config
        self.datamodule = self._build("data")
        self.datamodule.synthetic_dir = self.run_dir / "synthetic"
        if self.subcommand == "fit":
            self.trainer, self.model = cast(Trainer, self.trainer_class), None
            return
        self.model = self._build("model")
        if self.cfg.ckpt_path is None:
            self.cfg.ckpt_path = self._trained_model()
        self.trainer = self._trainer(str(self.subcommand), self.run_dir / str(self.subcommand), [PredictionWriter()])

    def fit(self, ckpt_path: str | Path | None = None, **_: Any) -> None:
        """Run the chain, or what is left of it, and print the table of test results."""
        if ckpt_path is not None:
            raise ConfigError("ckpt_path: fit resumes from run_dir by itself; leave --ckpt_path out")
        stages: dict[str, Stage] = self.cfg.stages or {"model": Stage()}
        if self.cfg.trainer.fast_dev_run:
            self._rehearse()
        folders = (self.run_dir / "stages" / f"{position:02d}-{name}" for position, name in enumerate(stages, start=1))
        directories = dict(zip(stages, folders, strict=True))
        self._check(stages, directories)
        if not self.cfg.trainer.fast_dev_run:
            self._claim_run_dir(stages, directories)
        for position, (name, stage) in enumerate(stages.items(), start=1):
            if not (directories[name] / "done").exists():
                self._fit_stage(name, stage, position, directories)
        if not self.cfg.trainer.fast_dev_run:
            self._report(directories)

    def _fit_stage(self, name: str, stage: Stage, position: int, directories: dict[str, Path]) -> None:
        """Fit and test one stage; everything a later attempt needs is in its folder."""
        directory = directories[name]
        seed = int(self.cfg.seed_everything) + position
        seed_everything(seed, workers=True, verbose=False)
        module = self._build(stage.module)
        module.stage_name = name
        datamodule = self.datamodule
        datamodule.source = stage.data
        init = directories[stage.init_from] / "checkpoints" / "last.ckpt" if stage.init_from else None
        if self.cfg.trainer.fast_dev_run:  # leaves no checkpoint
            init = None
        callbacks: list[Callback] = [StageCallback(directory, seed, init)]
        if stage.synthesize != "no":
            callbacks.append(self._synthesize(stage))
        if not self.cfg.trainer.fast_dev_run:
            folder = directory / "checkpoints"
            callbacks += [
                ModelCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True),
                ModelCheckpoint(folder, "best", monitor=module.MONITOR, mode=module.MODE, enable_version_counter=False),
            ]
        trainer = self._trainer(name, directory, callbacks, stage)
        log.info("stage %s: %s on %s images", name, type(module).__name__, stage.data)
        last = directory / "checkpoints" / "last.ckpt"
        trainer.fit(module, datamodule=datamodule, ckpt_path=last if last.exists() else None, weights_only=True)
        (metrics,) = trainer.test(module, datamodule=datamodule, verbose=False)
        if trainer.is_global_zero and not self.cfg.trainer.fast_dev_run:
            values = {name.removeprefix("test/"): value for name, value in metrics.items()}
            _write(directory / "test.json", json.dumps(values, indent=1))
            _write(directory / "done", "")
        for logger in trainer.loggers:
            logger.finalize("success")
            if isinstance(logger, WandbLogger):  # else the next stage's logger would join this run
                logger.experiment.finish()

    def _build(self, key: str) -> Any:
        """Instantiate one part of the configuration, anew at every call."""
        if self.cfg.get(key) is None:
            raise ConfigError(
                f"{key}: a stage needs this key and the configuration lacks it; add `{key}: class_path: …`"
            )
        parser = self._parser(self.subcommand)
        try:
            return parser.instantiate(Namespace({key: self.cfg[key]}), instantiate_groups=False)[key]
        except ValueError as error:  # jsonargparse wraps what a constructor raises
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, ConfigError):
                cause = cause.__cause__
            raise cause or error from None

    def _synthesize(self, stage: Stage) -> SynthesizeCallback:
        callback = SynthesizeCallback(**self._build("synthesize"))
        callback.directory = self.run_dir / "synthetic"
        callback.when = "start" if stage.synthesize == "start" else "end"
        if callback.seed is None:
            callback.seed = int(self.cfg.seed_everything)
        if self.cfg.trainer.fast_dev_run:
            callback.top_k = callback.images = 1
        return callback

    def _trainer(self, name: str, directory: Path, callbacks: list[Callback], stage: Stage | None = None) -> Trainer:
        """Make a Trainer whose every file is in ``directory``."""
        spec = self.cfg.trainer.clone()
        spec.update(Namespace(stage.trainer if stage else {}))
        if stage and stage.max_epochs is not None:
            spec.max_epochs = stage.max_epochs
        spec.default_root_dir = directory
        loggers = spec.pop("logger")
        parts = self._parser(self.subcommand).instantiate(Namespace(trainer=spec), instantiate_groups=False)
        arguments = parts.trainer.as_dict()
        own = arguments.pop("callbacks") or []
        own = own if isinstance(own, list) else [own]
        plugins = arguments.pop("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(SafeCheckpointIO())
        logger = False if spec.fast_dev_run else self._loggers(loggers, name, directory)
        trainer = self.trainer_class(**arguments, logger=logger, plugins=plugins, callbacks=[*own, *callbacks])
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise ConfigError(
                "trainer.strategy: spawn and fork strategies lose what child processes learn; use ddp, fsdp or torchrun"
            )
        return trainer

    def _loggers(self, specs: Any, name: str, directory: Path) -> list[Logger] | bool:
        """Make the loggers of a stage: CSV by default; W&B runs of one chain share a group."""
        if specs is False:
            return False
        if specs in (None, True):
            attempts = len(list(directory.glob("logs/attempt-*")))
            return [CSVLogger(directory, name="logs", version=f"attempt-{attempts}")]
        loggers = []
        for spec in specs if isinstance(specs, list) else [specs]:
            arguments = {k: v for k, v in spec.get("init_args", Namespace()).as_dict().items() if v is not None}
            arguments |= spec.get("dict_kwargs", {}) or {}
            if spec.class_path.endswith("WandbLogger"):
                run = self.run_dir.name
                defaults = {"project": "diffubias", "group": run, "name": f"{run}-{name}", "id": f"{run}-{name}"}
                if arguments.get("project") == "lightning_logs":  # Lightning's default, not the user's choice
                    del arguments["project"]
                if arguments.get("save_dir") == ".":
                    del arguments["save_dir"]
                arguments = {**defaults, "resume": "allow", "save_dir": str(directory), **arguments}
                directory.mkdir(parents=True, exist_ok=True)
            loggers.append(instantiate_class((), {"class_path": spec.class_path, "init_args": arguments}))
        return loggers

    def _check(self, stages: dict[str, Stage], directories: dict[str, Path]) -> None:
        """Refuse what can only fail after hours."""
        earlier: set[str] = set()
        if not all((directory / "done").exists() for directory in directories.values()):
            self.datamodule.setup("fit")  # the data first: nothing is fetched for a folder that is not there
        for name, stage in stages.items():
            if self.cfg.trainer.max_time or stage.trainer.get("max_time"):
                raise ConfigError(
                    "trainer.max_time: a stage that it ends would count as finished; leave it out and stop the run"
                    " from outside, the same command goes on"
                )
            if not isinstance(self.cfg.get(stage.module), Namespace):
                raise ConfigError(
                    f"stages.{name}.module: there is no module `{stage.module}`; add that key or use model"
                )
            if stage.init_from and stage.init_from not in earlier:
                raise ConfigError(
                    f"stages.{name}.init_from: {stage.init_from} is no earlier stage; earlier: {[*earlier]}"
                )
            earlier.add(name)
            for key in stage.trainer:
                if key not in self.cfg.trainer:
                    raise ConfigError(
                        f"stages.{name}.trainer.{key}: the Trainer has no such argument; see train.py fit -h"
                    )
            if (directories[name] / "done").exists():
                continue
            module = self._build(stage.module)
            if isinstance(module, Classifier):
                module.check()
                self._check_start(name, module, stages)
            if stage.synthesize != "no":
                self._synthesize(stage).check()

    def _check_start(self, name: str, module: Classifier, stages: dict[str, Stage]) -> None:
        """Refuse to start from the weights of another network."""
        before = stages[name].init_from
        if before is None:
            return
        source = self._build(stages[before].module)
        for key in ("backbone", "small_images"):
            if source.hparams.get(key) != module.hparams[key]:
                raise ConfigError(
                    f"stages.{name}.init_from: {before} has {key} {source.hparams.get(key)}, this stage"
                    f" {module.hparams[key]}; give both the same"
                )

    def _run_dir(self) -> Path:
        if self.cfg.run_dir is not None:
            return Path(self.cfg.run_dir)
        name = Path(str(self.cfg.config[0])).stem if self.cfg.get("config") else "run"
        return Path("runs") / name

    @rank_zero_only
    def _claim_run_dir(self, stages: dict[str, Stage], directories: dict[str, Path]) -> None:
        """Write the configuration into a new run folder; refuse a folder that holds another one.

        What only concerns stages that have no checkpoint yet may still change: a wrong learning rate of the last
        stage does not cost the stages before it.
        """
        text = self._parser(self.subcommand).dump(self.cfg, skip_unset=False, skip_validation=True)
        path = self.run_dir / "config.yaml"
        started = any(self.run_dir.glob("stages/*/checkpoints/*")) or (self.run_dir / "synthetic").exists()
        if not path.exists() or not started:  # a first attempt may fail at once, of a setting that is then put right
            _write(path, text)
            return
        old, new = (_flatten(yaml.safe_load(t)) for t in (path.read_text(), text))
        idle = {name for name, folder in directories.items() if not any(folder.glob("checkpoints/*"))}
        fixed = {stage.module for name, stage in stages.items() if name not in idle}
        free = (
            *(f"stages.{name}." for name in idle),
            *(f"{stages[name].module}." for name in idle if stages[name].module not in fixed),
        )
        differing = [k for k in sorted(old | new) if old.get(k) != new.get(k) and not k.startswith(free)]
        changes = [f"{k}: {old.get(k)} -> {new.get(k)}" for k in differing]
        if not changes and old != new:
            _write(path, text)
        if changes:
            raise ConfigError(
                f"run_dir: {self.run_dir} holds a run with other settings ({'; '.join(changes)});"
                " give another --run_dir, or the old settings to go on"
            )

    def _rehearse(self) -> None:
        """Send a fast_dev_run to a folder of its own, so that it leaves no marker in the run."""
        self.run_dir = self.run_dir / "fast_dev_run"
        if _rank() == 0:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        self.datamodule.synthetic_dir = self.run_dir / "synthetic"

    def _trained_model(self) -> Path:
        """Find the weights of the last stage, once it is trained."""
        stages = list(self.cfg.stages or {"model": None})
        folder = self.run_dir / "stages" / f"{len(stages):02d}-{stages[-1]}"
        if not (folder / "fit_done").exists():
            raise ConfigError(
                f"ckpt_path: no trained model in {folder}; run fit to its end, or give --ckpt_path or --run_dir"
            )
        self.model.stage_name = stages[-1]
        return folder / "checkpoints" / "last.ckpt"

    @rank_zero_only
    def _report(self, directories: dict[str, Path]) -> None:
        """Save and print what every stage's model reaches on the same test set."""
        rows = {name: json.loads((directory / "test.json").read_text()) for name, directory in directories.items()}
        packages = {name: version(name) for name in ("lightning", "torch", "torchvision", "diffusers", "transformers")}
        result = {"seed": self.cfg.seed_everything, "weights": "last epoch", "test": rows, "packages": packages}
        _write(self.run_dir / "results.json", json.dumps(result, indent=1))
        print(f"\n{table(rows)}\nrun folder: {self.run_dir}")


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lay out test results in per cent.

    Args:
        rows: Stage name to metrics in 0..1.

    Returns:
        One line a stage; a dash where a set has no labels for a metric.
    """
    columns = [c for c in ("accuracy", "aligned", "conflict", "worst_group") if any(c in r for r in rows.values())]
    lines = [f"{'test set, %':<16}" + "".join(f"{c.replace('_', ' '):>14}" for c in columns)]
    for name, row in rows.items():
        lines.append(f"{name:<16}" + "".join(f"{100 * row[c]:>14.1f}" if c in row else f"{'-':>14}" for c in columns))
    if "conflict" not in columns:
        lines.append("no bias labels in this test set: aligned, conflict and worst group cannot be told")
    return "\n".join(lines)


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys, without the EXECUTION_KEYS."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in EXECUTION_KEYS:
            continue
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments as in ``sys.argv[1:]``; None reads those.

    Raises:
        SystemExit: With status 2 after a mistake that the user can mend, told in one line; 143 after SIGTERM.
    """
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO if _rank() == 0 else logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # in-memory sets are fastest without workers
    warnings.filterwarnings(
        "ignore", ".*callbacks used to create the checkpoint need to be provided.*"
    )  # not in a test
    warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")  # a run folder may be moved
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own, on every step
    torch.set_float32_matmul_precision("high")
    try:
        DebiasCLI(
            LightningModule,
            DebiasDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=OneLineParser,
            save_config_callback=None,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )
    except ConfigError as error:
        sys.exit(_complain(str(error)))
    except SIGTERMException:  # ends with status 0 by itself, as if the work were done
        sys.exit(128 + signal.SIGTERM)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" at {error.filename2 or error.filename}" if error.filename else ""
        sys.exit(_complain(f"no space left on the disk{where}: free some and run the same command again"))


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def _complain(message: str) -> int:
    rank = _rank()
    print(f"error: {f'[rank {rank}] ' if rank else ''}{message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
