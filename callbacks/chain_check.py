"""What is refused before a chain begins, since it could only fail after hours."""

from jsonargparse import Namespace

from callbacks.chain import Fit, Stage
from callbacks.parts import Parts
from callbacks.synthesis_check import check_synthesis
from datamodules import DebiasDataModule
from lightning_modules import Classifier, ConfigError, StagedModule


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
        data.setup("fit")  # the data first: nothing is fetched for a folder that is not there
    stages = {fit.written: fit.stage for fit in fits}
    for name, stage in stages.items():
        _check_settings(name, stage, parts.settings)
        if not all(fit.is_done for fit in fits if fit.written == name):
            _check_stage(name, stages, parts, data)


def _check_settings(name: str, stage: Stage, settings: Namespace) -> None:
    """Refuse what can be seen from the configuration alone."""
    if settings.trainer.max_time or stage.trainer.get("max_time"):
        raise ConfigError(
            "trainer.max_time: a stage that it ends would count as finished; leave it out and stop the run"
            " from outside, the same command goes on"
        )
    if not isinstance(settings.get(stage.module), Namespace):
        raise ConfigError(f"stages.{name}.module: there is no module `{stage.module}`; add that key or use model")
    for key in stage.trainer:
        if key not in settings.trainer:
            raise ConfigError(f"stages.{name}.trainer.{key}: the Trainer has no such argument; see train.py fit -h")


def _check_stage(name: str, stages: dict[str, Stage], parts: Parts, data: DebiasDataModule) -> None:
    """Refuse what the module of a stage, and what is synthesised for it, cannot do."""
    stage = stages[name]
    module = parts.make(stage.module)
    if not isinstance(module, StagedModule):
        raise ConfigError(f"{stage.module}.class_path: {type(module).__name__} is no StagedModule; see docs")
    module.check()
    module.helpers = {
        key: [parts.make(stages[other].module)] * stages[other].repeat for key, other in stage.uses.items()
    }
    data.source = stage.data
    module.check_fit(data)
    if stage.init_from is not None:
        _check_start(name, module, stage.init_from, parts.make(stages[stage.init_from].module))
    if stage.synthesize != "no":
        before = list(stages.values())[: list(stages).index(name)]
        mined = any(own.synthesize in ("end", "captions") for own in before)
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
