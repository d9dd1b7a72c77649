"""diffubias: train image classifiers that do not take shortcuts, with synthetic images.

usage: python train.py {fit,validate,test,predict} --config configs/NAME.yaml [--KEY VALUE ...]
       python train.py sweep --config configs/NAME.yaml ... --seeds 1 2 3 [--vary KEY VALUE ...] [--KEY VALUE ...]
       python train.py table runs/* [--csv FILE]
       python train.py report RUN_DIR ... [--out FILE] [--explain N] [--KEY VALUE ...]

  fit        run the whole chain of the configuration; the same command goes on where it was stopped
  validate   validation metrics of a trained model
  test       test metrics of a trained model
  predict    predictions of a trained model, written as CSV into the run folder
  sweep      fit over configurations, settings and seeds, several at once; ends with the table
  table      mean and standard deviation over seeds of what finished runs have reached
  report     one HTML page of a run, or of several side by side

  python train.py fit --config configs/miniature.yaml          the embedded default, offline, minutes
  python train.py fit --config configs/bar.yaml --data.root DIR --synthesize.top_k 50
  python train.py fit --config configs/bar.yaml --print_config  every setting, with its default
  python train.py fit -h                                        help on all but the settings of the parts,
  python train.py fit --data.help Folder                        which this gives (--model.help LfF and so on)
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast


def answer_at_once(words: list[str]) -> None:
    """Do what needs none of the heavy imports below, and leave; return if they are needed."""
    if words in ([], ["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    if words[0] in ("sweep", "table"):
        sys.exit(import_module(f"callbacks.{words[0]}").main(words[1:]))


if __name__ == "__main__":
    answer_at_once(sys.argv[1:])

import errno
import logging
import shutil
import signal
import warnings
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import PredictionWriter, StageCallback, SynthesizeCallback
from callbacks.chain import Fit, Stage, unfinished, unroll
from callbacks.chain_check import check_chain, check_same_images
from callbacks.dashboard import Dashboard, log_costs
from callbacks.emissions import Meter
from callbacks.emissions_log import describe
from callbacks.live_table import LiveTable
from callbacks.loggers import finish
from callbacks.parsers import OneLineParser, RaisingParser, complain, rank
from callbacks.parts import Parts
from callbacks.provenance import record_attempt
from callbacks.report.opened import OpenedRun
from callbacks.report.settings import FILE as REPORT
from callbacks.report.settings import Report
from callbacks.results import RESULTS, evaluate, table, write_results
from callbacks.run_folder import CONFIG, claim, differences, held
from callbacks.side_product import side_product
from callbacks.stage import BestCheckpoint, LastCheckpoint
from callbacks.test_curve import CurveWriter
from datamodules import DebiasDataModule
from lightning_modules import Classifier, ConfigError

log = logging.getLogger("diffubias")


class DebiasCLI(LightningCLI):
    """LightningCLI whose ``fit`` runs a chain of stages, each with a Trainer of its own, in one run folder."""

    def __init__(self, args: list[str] | None, **options: Any) -> None:
        """Parse the arguments and run what they ask for."""
        self._words = sys.argv[1:] if args is None else args
        super().__init__(args=args, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # in Lightning it knows no arguments
        """Name only the one that is asked for, if it is known: parsers of the others take a third of a second."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in self._words[:1] if name in known} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments that a chain has beyond trainer, model and data."""
        parser.add_argument("--run_dir", type=Path | None, default=None, help="Run folder; default runs/CONFIG_NAME.")
        parser.add_argument(
            "--stages", type=dict[str, Stage] | None, default=None, help="The chain; without it `model` is fitted once."
        )
        parser.add_subclass_arguments(LightningModule, "biased", required=False)
        parser.add_subclass_arguments(LightningModule, "diffusion", required=False)
        parser.add_subclass_arguments(LightningModule, "gan", required=False)
        parser.add_subclass_arguments(LightningModule, "adapted", required=False)
        parser.add_subclass_arguments(LightningModule, "pretrain", required=False)
        parser.add_class_arguments(SynthesizeCallback, "synthesize", instantiate=False, sub_configs=True)
        parser.add_class_arguments(Meter, "emissions", instantiate=False)
        parser.add_class_arguments(Dashboard, "dashboard", instantiate=False)
        parser.add_class_arguments(Report, "report", instantiate=False)

    def _set_seed(self) -> None:
        """Refuse what is no seed, for which Lightning has a traceback."""
        seed = self._get(self.config, "seed_everything")
        if isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything: {seed} is no seed; give a number from 0 to {2**32 - 1}")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Leave flags alone: Lightning would let hyper-parameters of the checkpoint beat them."""

    def instantiate_classes(self) -> None:
        """Build what this subcommand needs and nothing else; ``fit`` builds modules and Trainers stage by stage."""
        self.cfg: Namespace = self.config[self.subcommand]
        is_given = any(word.partition("=")[0] == "--run_dir" for word in self._words)
        reopened = None if is_given else self._run_of_config()  # wherever it was when its configuration was written
        self.run_dir = Path(reopened or self.cfg.run_dir or Path("runs") / self._name())
        if self.subcommand == "fit" and self.cfg.trainer.fast_dev_run:
            self.run_dir /= "fast_dev_run"  # a rehearsal leaves no marker in the run
        self.config_init = self.config
        self.meter = Meter(**self.cfg.emissions.as_dict())
        self.report = Report(**self.cfg.report.as_dict())
        self.parts = Parts(self._parser(self.subcommand), self.cfg, self.run_dir, self.meter)
        self.datamodule = self.parts.make("data")
        self.datamodule.synthetic_dir = self.run_dir / "synthetic"
        if self.subcommand == "fit":
            self.trainer, self.model = cast(Trainer, self.trainer_class), None
            return
        last = self._chain()[-1]
        self.model = self.parts.make(last.stage.module)
        if not isinstance(self.model, Classifier):
            raise ConfigError(
                f"{last.stage.module}.class_path: {type(self.model).__name__} classifies nothing: there is nothing to"
                f" {self.subcommand}"
            )
        given = self.cfg.ckpt_path
        if given is not None and "://" not in str(given) and not Path(given).is_file():
            raise ConfigError(f"ckpt_path: there is no file {given}; without it the last epoch is taken")
        if given is None:
            if not (last.directory / "fit_done").exists() or not last.last.is_file():
                raise ConfigError(
                    f"ckpt_path: no trained model in {last.directory}; run fit to its end, or give --ckpt_path or"
                    " --run_dir"
                )
            self.model.stage_name = last.name
            self.cfg.ckpt_path = last.last
            if other := [line for line in differences(self.run_dir, self.parts.dump()) if line.startswith("data.")]:
                log.warning("other data than those of the run: %s", "; ".join(other))
        name = str(self.subcommand)
        self.trainer = self.parts.trainer(name, self.run_dir / name, [PredictionWriter()])

    def fit(self, ckpt_path: str | Path | None = None, **_: Any) -> None:
        """Run the chain, or what is left of it, and print the table of test results."""
        if ckpt_path is not None:
            raise ConfigError("ckpt_path: fit resumes from run_dir by itself; leave --ckpt_path out")
        rehearsal = self.parts.is_rehearsal
        if rehearsal and rank() == 0:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        fits = self._chain()
        self.meter.check()
        self._check_names()
        check_chain(fits, self.parts, self.datamodule)
        if rehearsal:
            self._fit_chain(fits)
            return
        with held(self.run_dir, is_rank_zero=rank() == 0):
            claim(self.run_dir, self.parts.dump(), fits, is_rank_zero=rank() == 0)
            check_same_images(fits, self.datamodule)
            self.meter.directory = self.run_dir
            self._fit_chain(fits)

    def _fit_chain(self, fits: list[Fit]) -> None:
        """Fit and test the stages that are not done, and gather what all have reached."""
        rehearsal = self.parts.is_rehearsal
        todo = unfinished(fits, self.run_dir / "synthetic", self.cfg.synthesize.generator is not None)
        if todo and not rehearsal and rank() == 0:
            for name in (REPORT, RESULTS):  # those of the run as it was before
                (self.run_dir / name).unlink(missing_ok=True)
        for fit in todo:
            self._fit_stage(fit, fits, todo)
        if not rehearsal and rank() == 0:
            costs = self.meter.total()
            rows = write_results(self.run_dir, fits, self._name(), int(self.cfg.seed_everything), costs)
            lines = [*([table(rows)] if rows else []), *([describe(costs)] if costs else [])]
            print("", *lines, f"run folder: {self.run_dir}", sep="\n")
            if self.report.enabled and not (self.run_dir / REPORT).exists():
                self._report()

    def _report(self) -> None:
        """Write the report; the run is over, and nothing that goes wrong here may spoil it."""
        try:
            from callbacks.report.page import report_run  # it brings plotting libraries

            self.datamodule.trainer = None  # the other ranks have left: nothing may be asked of them
            report_run(self.run_dir, self.opened(), self.report)
            print(f"report: {self.run_dir / REPORT}")
        except Exception as error:
            log.warning("no report (%s): train.py report %s tries again", error, self.run_dir)

    def opened(self) -> OpenedRun:
        """The data and the trained models of the run, each made when it is asked for."""
        fits = self._chain()

        def synthesis() -> SynthesizeCallback:
            stage = next((fit.stage for fit in fits if fit.stage.synthesize != "no"), None)
            if stage is None:
                raise ConfigError("explain: this chain synthesises nothing, so that there is nothing to explain")
            return self.parts.synthesis(stage)

        cuda = torch.cuda.is_available() and self.cfg.trainer.accelerator in ("auto", "gpu", "cuda")
        return OpenedRun(self.datamodule, fits, self._trained, synthesis, torch.device("cuda" if cuda else "cpu"))

    def _chain(self) -> list[Fit]:
        return unroll(self.cfg.stages or {"model": Stage()}, self.run_dir)

    def _check_names(self) -> None:
        """Refuse a flag that misspells a stage: it would make a new one."""
        if any(word.partition("=")[0] == "--stages" for word in self._words):
            return
        files = [yaml.safe_load(Path(str(path)).read_text(encoding="utf-8")) for path in self.cfg.config or []]
        written = [name for own in files for name in own.get("stages") or {}]
        for name in self.cfg.stages or {}:
            if name not in written and not any(word.startswith(f"--stages.{name}.module") for word in self._words):
                raise ConfigError(
                    f"stages.{name}: the configuration has no such stage, but {', '.join(written) or 'none'}; a new one"
                    f" needs --stages.{name}.module"
                )

    def _name(self) -> str:
        """Name of the configuration: that of its first file, or of the run folder that it stands in."""
        own = self._run_of_config()
        return own.name if own else Path(str(self.cfg.config[0])).stem if self.cfg.get("config") else "run"

    def _run_of_config(self) -> Path | None:
        """The run folder whose own configuration is given."""
        file = Path(str(self.cfg.config[0])) if self.cfg.get("config") else Path()
        return file.parent if file.name == CONFIG and (file.parent / "stages").is_dir() else None

    def _trained(self, fit: Fit) -> LightningModule:
        return self.parts.trained(fit, self.datamodule)

    def _fit_stage(self, fit: Fit, fits: list[Fit], todo: list[Fit]) -> None:
        """Fit and test one of the stages of this attempt; its folder holds all that another needs."""
        stage, rehearsal = fit.stage, self.parts.is_rehearsal
        if (fit.directory / "fit_done").exists() and not fit.last.is_file():
            raise ConfigError(f"run_dir: {fit.last} is missing; put it back, or delete {fit.directory} to fit it again")
        helpers = {key: [self._trained(own) for own in fits if own.written == name] for key, name in stage.uses.items()}
        seed = fit.seed(int(self.cfg.seed_everything))
        seed_everything(seed, workers=True, verbose=False)
        module = self.parts.make(stage.module)
        module.stage_name = fit.name
        module.helpers = helpers
        self.datamodule.source = stage.data
        self.datamodule.stage_augment, self.datamodule.stage_batch_size = stage.augment, stage.batch_size
        # the fits of a repeated stage see the images in orders of their own
        self.datamodule.order_seed = seed if stage.repeat > 1 else int(self.cfg.seed_everything)
        first = next((own for own in fits if own.written == stage.init_from), None)
        init = None if first is None else first.best if stage.init_epoch == "best" else first.last
        # a rehearsal leaves no checkpoint, and finds none
        callbacks: list[Callback] = [StageCallback(fit.directory, seed, None if rehearsal else init)]
        callbacks.append(LiveTable(fit.name))
        if stage.synthesize != "no":
            callbacks.append(self.parts.synthesis(stage))
        callbacks.append(self.parts.dashboard(fit, fits))  # after the synthesis, which it shows
        if not rehearsal:
            folder = fit.last.parent
            callbacks.append(CurveWriter(fit.directory))
            if module.monitor is not None:  # before the last one, which then knows of it when a fit goes on from there
                callbacks.append(BestCheckpoint(folder, module.monitor))
            callbacks.append(LastCheckpoint(folder, stage.save_every))
        trainer = self.parts.trainer(fit.name, fit.directory, callbacks, stage)
        log.info("stage %s: %s on %s images", fit.name, type(module).__name__, stage.data)
        if fit is todo[0] and not rehearsal and trainer.is_global_zero:
            with side_product("the record of this attempt is"):
                record_attempt(self.run_dir, sys.argv, trainer, int(self.cfg.seed_everything))
        ckpt_path = fit.last if fit.last.exists() else None
        self.meter.watch(fit.name, trainer)
        with self.meter.phase("fit", fit.directory / "fit_done"), self.parts.naming(stage.module):
            trainer.fit(module, datamodule=self.datamodule, ckpt_path=ckpt_path, weights_only=True)
        with self.meter.phase("test"):
            evaluate(trainer, module, self.datamodule, fit)
        trainer.strategy.barrier()  # every node has written its records
        log_costs(trainer, self.run_dir, fit.name)
        finish(trainer.loggers, is_last=fit is todo[-1])


class ReopenedCLI(DebiasCLI):
    """The command line of a run that stands on the disk: everything is made as ``fit`` makes it, nothing is fitted."""

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def open_run(folder: Path, further: Sequence[str] = ()) -> OpenedRun:
    """Open a run folder.

    Args:
        folder: The run folder.
        further: Settings that replace those of the run, as on the command line.

    Returns:
        Its data and models.

    Raises:
        ConfigError: The configuration does not fit this version, or a setting is wrong.
    """
    words = ["fit", f"--config={folder / 'config.yaml'}", f"--run_dir={folder}", *further]
    return _cli(ReopenedCLI, words, RaisingParser).opened()


def _cli(kind: type[DebiasCLI], args: list[str] | None, parser: type[LightningArgumentParser]) -> DebiasCLI:
    return kind(
        args,
        model_class=LightningModule,
        datamodule_class=DebiasDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=parser,
        save_config_callback=None,
        seed_everything_default=1,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments as in ``sys.argv[1:]``; None reads those.

    Raises:
        SystemExit: With status 2 after a mistake that the user can mend, told in one line; 143 after SIGTERM.
    """
    words = sys.argv[1:] if args is None else args
    answer_at_once(words)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # in-memory sets are fastest without workers
    warnings.filterwarnings(
        "ignore", ".*callbacks used to create the checkpoint need to be provided.*"
    )  # not in a test
    warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")  # a run folder may be moved
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen batch normalisation
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended.*")  # as a report reopens a run
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own, on every step
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)  # on a CPU, moments of weights that are rarely used would slow Adam down
    try:
        if words[0] == "report":
            sys.exit(import_module("callbacks.report.command").main(words[1:], open_run))
        _cli(DebiasCLI, args, OneLineParser)
    except ConfigError as error:
        sys.exit(complain(str(error)))
    except MisconfigurationException as error:  # what Lightning finds only while it fits
        sys.exit(complain(f"trainer: {' '.join(str(error).split())}"))
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):  # the monitor of the user's EarlyStopping
            raise
        sys.exit(complain(f"trainer.callbacks: {' '.join(str(error).split())}"))
    except UnicodeDecodeError as error:
        sys.exit(complain(f"--config: a file is not UTF-8 text ({error.reason}, byte {error.start}); save it so"))
    except KeyboardInterrupt:  # in a fit, Lightning ends the process by itself
        sys.exit(128 + signal.SIGINT)
    except SIGTERMException:  # ends with status 0 by itself, as if the work were done
        sys.exit(128 + signal.SIGTERM)
    except OSError as error:
        where = f" at {error.filename2 or error.filename}" if error.filename else ""
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            sys.exit(complain(f"no permission{where}: {error.strerror}; change it, or give another folder"))
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(complain(f"no space left on the disk{where}: free some and run the same command again"))


if __name__ == "__main__":
    main()
