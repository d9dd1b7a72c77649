"""What is refused before a fit, since the synthesis after it would refuse it."""

from pathlib import Path

import torch

from callbacks.synthesis.manifest import is_finished
from callbacks.synthesis.mining import MiningData
from callbacks.synthesis.reuse import finished_set
from callbacks.synthesize import SynthesizeCallback
from lightning_modules import Classifier, ConfigError, StagedModule


def check_synthesis(own: SynthesizeCallback, data: MiningData, module: StagedModule, mined: bool = False) -> None:
    """Refuse now what would otherwise be refused after the fit; takes well under a second.

    Args:
        own: What will synthesise.
        data: The training set, read.
        module: What the stage will have fitted.
        mined: Whether an earlier stage mines.

    Raises:
        ConfigError: A count, a model or the set to take over is wrong.
    """
    _check_numbers(own)
    if own.directory is not None and is_finished(own.directory):
        return
    if own.reuse is not None:
        finished_set(Path(own.reuse), data.class_names, data.bias_names)
        return
    if not isinstance(module, Classifier):
        _check_learner(own, module, mined)
    if own.prompts is not None:
        if own.generator is None or not own.draw:
            raise ConfigError(
                "synthesize.prompts are drawn from: synthesize.generator must not be null, and the stage must not "
                "stop with captions"
            )
        own.plan_prompts(data)
    else:
        _check_mining(own, data)
    if own.generator is not None and own.draw:
        own.generator.check(module, data)
        if own.gate.judge is not None:
            own.gate.judge.check(data.class_names)


def _check_numbers(own: SynthesizeCallback) -> None:
    if own.top_k < 1:
        raise ConfigError(f"synthesize.top_k must be at least 1, got {own.top_k}")
    if own.explain < 0:
        raise ConfigError(f"synthesize.explain must be 0 or more, got {own.explain}")
    if isinstance(own.images, int) and own.images < 1:
        raise ConfigError(f"synthesize.images must be at least 1 per class, aligned or captions; got {own.images}")


def _check_learner(own: SynthesizeCallback, module: StagedModule, mined: bool) -> None:
    """Refuse to mine with a module that classifies nothing, and to draw with one that has learnt nothing yet."""
    name = type(module).__name__
    if own.when == "start":
        raise ConfigError(f"synthesize: start draws before {name} has learnt anything: set the stage to end")
    if own.prompts is None and not mined:
        raise ConfigError(
            f"{name} classifies nothing, so nothing can be mined with it: give synthesize.prompts, or let an "
            "earlier stage mine (synthesize: captions)"
        )


def _check_mining(own: SynthesizeCallback, data: MiningData) -> None:
    """Refuse what cannot be mined, or drawn from mined images."""
    if own.mine_epoch == "best" and own.when == "start":
        raise ConfigError("synthesize.mine_epoch=best: start mines before this stage has any epoch: set it to last")
    if own.images in ("uniform", "additive"):
        raise ConfigError(f"synthesize.images={own.images} goes with synthesize.prompts; give a number per class")
    if own.generator is None:
        if not own.draw:
            raise ConfigError("synthesize.generator is null, so nothing is captioned: set the stage to end")
        return
    if own.captioner is None and own.reads_captions:
        raise ConfigError("synthesize.captioner is null while synthesize.generator is not: give a captioner")
    # how many are mined follows from the labels, whatever the losses are
    labels = data.train_labels()
    count = len(own.miner.select(torch.zeros(len(labels)), labels, own.top_k))
    if own.images == "aligned" and count == len(labels):
        raise ConfigError(
            f"synthesize.top_k={own.top_k} mines all {len(labels)} training images, so that none is left to count"
            " as aligned; lower it, or set synthesize.images to a number per class"
        )
    if own.captioner is not None and own.reads_captions:
        own.captioner.check()
