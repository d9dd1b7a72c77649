"""What is refused before a chain begins, since it could only fail after hours."""

import logging

from jsonargparse import Namespace

from callbacks.chain import Fit, Stage
from callbacks.checkpoints import read_checkpoint
from callbacks.parts import Parts
from callbacks.synthesis_check import check_synthesis
from datamodules import DebiasDataModule
from datamodules.sampling import synthetic_per_batch
from lightning_modules import Classifier, ConfigError, StagedModule

LOGGER = logging.getLogger("diffubias")
MODULES = ("biased", "diffusion", "gan", "adapted", "pretrain")


def check_chain(fits: list[Fit], parts: Parts, data: DebiasDataModule) -> None:
    """Refuse what can only fail after hours.

    Args:
        fits: The chain.
        parts: Makes its modules.
        data: The data module; it reads its training images if a fit is not done yet.

    Raises:
        ConfigError: A setting, a module or the data is wrong.
    """
    if not all(fit.is_done for fit in fits):
        # the data first: no model is fetched for a folder that is not there
        data.prepare_data()
        data.setup("fit")
        data.setup("test")  # a test set that is not there should not show after hours
    stages = {fit.written: fit.stage for fit in fits}
    _tell_of_idle(stages, parts.settings)
    for name, stage in stages.items():
        _check_settings(name, stage, parts.settings)
        _check_images(name, stages, parts)
        if not all(fit.is_done for fit in fits if fit.written == name):
            _check_stage(name, stages, parts, data)


def check_same_images(fits: list[Fit], data: DebiasDataModule) -> None:
    """Refuse to go on with other images than those that the fits of the run have learnt from.

    Raises:
        ConfigError: The images are others, or a checkpoint is damaged.
    """
    if all(fit.is_done for fit in fits):
        return
    for fit in fits:
        if fit.last.is_file() and (known := read_checkpoint(fit.last, mmap=True).get(type(data).__qualname__)):
            data.refuse_others(known)


def _check_settings(name: str, stage: Stage, settings: Namespace) -> None:
    """Refuse what can be seen from the configuration alone."""
    if settings.trainer.max_time or stage.trainer.get("max_time"):
        raise ConfigError(
            "trainer.max_time: a stage that it ends would count as finished; leave it out and stop the run"
            " from outside, the same command goes on"
        )
    if 0 in (settings.trainer.limit_test_batches, stage.trainer.get("limit_test_batches")):
        raise ConfigError("trainer.limit_test_batches: a run ends with its test; give at least 1")
    if settings.trainer.default_root_dir is not None or "default_root_dir" in stage.trainer:
        raise ConfigError("trainer.default_root_dir: everything goes into the run folder; give --run_dir")
    if isinstance(stage.trainer.get("logger"), str):
        raise ConfigError(
            f"stages.{name}.trainer.logger: write {{class_path: ...}}, or set trainer.logger for all stages"
        )
    if not isinstance(settings.get(stage.module), Namespace):
        raise ConfigError(f"stages.{name}.module: there is no module `{stage.module}`; add that key or use model")
    for key in ("check_val_every_n_epoch", "accumulate_grad_batches"):
        if settings.trainer.get(key) is not None and settings.trainer[key] < 1:
            raise ConfigError(f"trainer.{key} must be at least 1, got {settings.trainer[key]}")
    for key, epochs in ((f"stages.{name}", stage.max_epochs), ("trainer", settings.trainer.max_epochs)):
        if epochs is not None and epochs < -1:
            raise ConfigError(f"{key}.max_epochs must be at least 1, got {epochs}")
    for key in stage.trainer:
        if key not in settings.trainer:
            raise ConfigError(f"stages.{name}.trainer.{key}: the Trainer has no such argument; see train.py fit -h")


def _check_images(name: str, stages: dict[str, Stage], parts: Parts) -> None:
    """Refuse a stage that learns from images which nothing before it mines or draws."""
    stage = stages[name]
    synthesised = any(own.synthesize != "no" for own in _before(name, stages)) or stage.synthesize == "start"
    if stage.data != "real" and not synthesised and not (parts.run_dir / "synthetic").exists():
        raise ConfigError(
            f"stages.{name}.data={stage.data}: nothing is synthesised before it; set data to real, or the synthesize"
            " of an earlier stage to end"
        )


def _before(name: str, stages: dict[str, Stage]) -> list[Stage]:
    return list(stages.values())[: list(stages).index(name)]


def _tell_of_idle(stages: dict[str, Stage], settings: Namespace) -> None:
    """Tell of parts that are set and do nothing in this chain."""
    used = {stage.module for stage in stages.values()}
    idle = [key for key in MODULES if settings.get(key) is not None and key not in used]
    if idle:
        LOGGER.info("%s: no stage of this chain fits it, so that its settings change nothing", ", ".join(idle))


def _check_stage(name: str, stages: dict[str, Stage], parts: Parts, data: DebiasDataModule) -> None:
    """Refuse what the module of a stage, and what is synthesised for it, cannot do."""
    stage = stages[name]
    module = parts.make(stage.module)
    if not isinstance(module, StagedModule):
        raise ConfigError(f"{stage.module}.class_path: {type(module).__name__} is no StagedModule; see docs")
    module.helpers = {
        key: [parts.make(stages[other].module)] * stages[other].repeat for key, other in stage.uses.items()
    }
    data.source = stage.data
    if stage.batch_size is not None and stage.data == "both" and data.mixing == "batch":
        try:
            synthetic_per_batch(stage.batch_size, data.synthetic_share)
        except ConfigError as error:
            raise ConfigError(f"stages.{name}.batch_size: {error}") from error
    with parts.naming(stage.module):
        module.check(data)
        module.check_fit(data)
    if stage.trainer:  # that of the other stages is made before the first fit
        try:
            parts.trainer(name, parts.run_dir, [], stage, logs=False)
        except ConfigError as error:
            raise ConfigError(f"stages.{name}.trainer={stage.trainer} does not fit; {error}") from error
    if stage.init_from is not None:
        _check_start(name, module, stage.init_from, parts.make(stages[stage.init_from].module))
    if stage.synthesize != "no":
        mined = any(own.synthesize in ("end", "captions") for own in _before(name, stages))
        check_synthesis(parts.synthesis(stage), data, module, mined)


def _check_start(name: str, module: StagedModule, source_name: str, source: StagedModule) -> None:
    """Refuse to start from the weights of another network."""
    kinds = [own.network_kind if isinstance(own, Classifier) else None for own in (source, module)]
    if None in kinds or kinds[0] != kinds[1]:
        raise ConfigError(
            f"stages.{name}.init_from: the {kinds[0] or 'model'} of {source_name} ({type(source).__name__}) is no"
            f" start for that of {type(module).__name__}; name a stage with the same kind of network"
        )
    for key in ("backbone", "small_images", "backbone_args"):
        if source.hparams.get(key) != module.hparams.get(key):
            raise ConfigError(
                f"stages.{name}.init_from: {source_name} has {key} {source.hparams.get(key)}, this stage"
                f" {module.hparams.get(key)}; give both the same"
            )
