"""BiasEnsemble: which training images an ensemble of biased classifiers holds for bias-aligned."""

import logging
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from .classifier import Classifier
from .distributed import summed, world_size
from .errors import ConfigError
from .scoring import training_logits

_log = logging.getLogger("diffubias")


def amplified_set(module: Classifier, ensemble: Sequence[Classifier], confidence: float, agreement: int) -> Tensor:
    """The bias-amplified set of BiasEnsemble (Lee et al., arXiv 2205.14594, section 3): a collective operation.

    Args:
        module: the module in training, which gives data and device.
        ensemble: trained biased classifiers.
        confidence: a member marks an image if it gives its class a greater probability, in (0, 1).
        agreement: how many members must mark an image.

    Returns:
        Whether each image of the real training set is in the set, bool [N], on the CPU.
    """
    labels = module.trainer.datamodule.train_labels()  # type: ignore[attr-defined]
    votes = torch.zeros(len(labels), dtype=torch.int64)
    for member in ensemble:
        probability = training_logits(module, member).softmax(dim=1)[torch.arange(len(labels)), labels]
        votes += probability > confidence
    amplified = votes >= agreement
    _tell(amplified)
    return amplified


def check_agreement(agreement: int, members: int) -> None:
    """Refuse an agreement that an ensemble cannot reach, or that it always reaches.

    Raises:
        ConfigError: the agreement lies outside 1 ... members.
    """
    if not 1 <= agreement <= members:
        raise ConfigError(
            f"model.agreement must lie between 1 and the {members} members of the ensemble, but is {agreement}."
        )


def inside(losses: Tensor, mask: Tensor) -> Tensor:
    """Losses [B] whose mean over the batches of all processes is that over the masked samples; 0 where none is masked.

    Args:
        losses: losses of a batch, float [B]; all processes have equally many.
        mask: which samples count, bool [B].
    """
    count = summed(mask.sum()).clamp_min(1)
    return losses * mask * (world_size() * len(losses) / count)


@rank_zero_only
def _tell(amplified: Tensor) -> None:
    count = int(amplified.sum())
    _log.info("bias-amplified set: %d of %d training images", count, len(amplified))
    if not count:
        _log.warning("no image is in it, so the biased network learns nothing: lower model.confidence or agreement")
