"""The chain of fits that a configuration describes: its stages, their repeats, their order and their folders."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from callbacks.synthesis.manifest import CAPTIONS, MANIFEST, SELECTION
from callbacks.synthesis.plan import make_seed
from lightning_modules.errors import ConfigError

# where a fit leaves the weights that validation has chosen, in its folder
BEST = Path("checkpoints/best.ckpt")


@dataclass
class Stage:
    """One stage of the chain: a fit, or several that differ only in their seed.

    Attributes:
        module: The configuration key of the module to fit: ``biased``, ``diffusion``, ``gan``, ``adapted``,
            ``pretrain`` or ``model``.
        data: The training images: real, of these the mined ones, synthetic, or real and synthetic.
        augment: Random changes of the training images in this stage alone; None takes ``data.augment``.
        batch_size: Training samples in a batch of one process in this stage alone; None takes ``data.batch_size``.
        synthesize: When images are synthesised: not at all, before this fit, or after it; ``captions`` mines after it
            and captions what the generator draws from captions, and leaves the drawing to a later stage.
        init_from: Name of an earlier stage whose classifier this one starts from; None starts fresh.
        init_epoch: Which weights of that stage: those of its last epoch, or of the one that validation has chosen.
        uses: Earlier stages whose trained modules this one is handed, by the name it knows them by; of a repeated
            stage all modules.
        repeat: How many times the stage is fitted; the fits are called ``NAME-1``, ``NAME-2``, and so on.
        save_every: Epochs between two checkpoints to go on from; the last epoch always has one.
        max_epochs: Epochs of this stage; None takes ``trainer.max_epochs``.
        trainer: Further Trainer arguments of this stage alone.
    """

    module: str = "model"
    data: Literal["real", "mined", "synthetic", "both"] = "real"
    augment: Literal["none", "flip", "crop_flip", "resized_crop_flip"] | None = None
    batch_size: int | None = None
    synthesize: Literal["no", "start", "end", "captions"] = "no"
    init_from: str | None = None
    init_epoch: Literal["last", "best"] = "last"
    uses: dict[str, str] = field(default_factory=dict)
    repeat: int = 1
    save_every: int = 1
    max_epochs: int | None = None
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """One fit of a chain.

    Attributes:
        name: Name of the stage, with the number of the repeat where there are several.
        written: Name of the stage in the configuration.
        stage: Its settings.
        position: Place in the chain, from 1.
        directory: Its folder.
    """

    name: str
    written: str
    stage: Stage
    position: int
    directory: Path

    def seed(self, run_seed: int) -> int:
        """Seed of this fit in a run of some seed.

        Args:
            run_seed: Seed of the run, at least 0.

        Returns:
            That of the run plus the position. Repeats get one far from all others: two ensembles of neighbouring run
            seeds would have all but one member in common.
        """
        return make_seed(run_seed, self.position) if self.stage.repeat > 1 else run_seed + self.position

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch that validation selected."""
        return self.directory / BEST

    @property
    def is_started(self) -> bool:
        """Whether there is a checkpoint."""
        return any(self.directory.glob("checkpoints/*"))

    @property
    def is_done(self) -> bool:
        """Whether the fit and all that follows it are over."""
        return (self.directory / "done").exists()


def unroll(stages: dict[str, Stage], run_dir: Path) -> list[Fit]:
    """List the fits of a chain in their order.

    Args:
        stages: The stages by name.
        run_dir: The run folder; the fits' folders are ``stages/01-NAME`` and so on in it.

    Returns:
        One fit a stage, or as many as it has repeats.

    Raises:
        ConfigError: A stage refers to one that does not come before it, or names and repeats do not fit together.
    """
    fits: list[Fit] = []
    for written, stage in stages.items():
        if stage.repeat < 1:
            raise ConfigError(f"stages.{written}.repeat must be at least 1, got {stage.repeat}")
        if stage.repeat > 1 and stage.synthesize in ("end", "captions"):
            raise ConfigError(
                f"stages.{written}.repeat: the images of a run are synthesised from one fit; repeat another stage"
            )
        if stage.save_every < 1:
            raise ConfigError(f"stages.{written}.save_every must be at least 1, got {stage.save_every}")
        if stage.batch_size is not None and stage.batch_size < 1:
            raise ConfigError(f"stages.{written}.batch_size must be at least 1, got {stage.batch_size}")
        _check_references(written, stage, stages, list(dict.fromkeys(fit.written for fit in fits)))
        repeats = range(1, stage.repeat + 1)
        for name in [written] if stage.repeat == 1 else [f"{written}-{number}" for number in repeats]:
            position = len(fits) + 1
            fits.append(Fit(name, written, stage, position, run_dir / "stages" / f"{position:02d}-{name}"))
    for name, count in Counter(fit.name for fit in fits).items():
        if count > 1:
            raise ConfigError(f"stages.{name}: a repeat of another stage has this name too; rename the stage")
    return fits


def unfinished(fits: list[Fit], synthetic: Path, draws: bool) -> list[Fit]:
    """List the fits that are not over.

    Args:
        fits: The chain.
        synthetic: The synthetic folder; where what was made there is lost, those who made it count as not over, unless
            the whole chain is over.
        draws: Whether images are drawn; otherwise the mined ones are all that is made.
    """
    left = [fit for fit in fits if not fit.is_done]
    if left and any(fit.is_done and _is_lost(fit.stage, synthetic, draws) for fit in fits):
        left = [fit for fit in fits[: left[-1].position] if not fit.is_done or fit.stage.synthesize != "no"]
    return left


def _is_lost(stage: Stage, synthetic: Path, draws: bool) -> bool:
    """Tell whether what a finished stage has synthesised is not there any more."""
    made = [MANIFEST, *([] if draws else [SELECTION]), *([CAPTIONS] if stage.synthesize == "captions" else [])]
    return stage.synthesize != "no" and not any((synthetic / name).is_file() for name in made)


def _check_references(name: str, stage: Stage, stages: dict[str, Stage], earlier: list[str]) -> None:
    """Refuse references to stages that are not over when this one begins."""
    references = {f"uses.{attribute}": other for attribute, other in stage.uses.items()}
    if stage.init_from is not None:
        references["init_from"] = stage.init_from
    for key, other in references.items():
        if other not in earlier:
            raise ConfigError(f"stages.{name}.{key}: {other} is no earlier stage; earlier: {earlier}")
    if stage.init_from is not None and stages[stage.init_from].repeat > 1:
        raise ConfigError(
            f"stages.{name}.init_from: {stage.init_from} is fitted {stages[stage.init_from].repeat} times, and which"
            " one to start from cannot be guessed; name a stage that is fitted once"
        )
