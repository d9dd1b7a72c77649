"""Just train twice: the images that a first classifier gets wrong come more often in the training of a second."""

import logging
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from .classifier import Classifier
from .errors import ConfigError
from .losses import cross_entropy
from .scoring import training_logits

_log = logging.getLogger("diffubias")


class JTT(Classifier):
    """Just train twice (Liu et al., arXiv 2107.09044): plain training, with the errors of an earlier stage upweighted.

    The helper named ``identification`` is a classifier trained for few epochs on the same images; its error set is what
    it misclassifies of the real training set. If it makes no error this is plain training.
    """

    helper_names: ClassVar[tuple[str, ...]] = ("identification",)

    def __init__(self, upweight: int = 100, **kwargs: Any) -> None:
        """Keep the settings; the network is built later.

        Args:
            upweight: how many times an image of the error set comes in an epoch, the lambda of the paper; their code
                adds lambda copies to the image itself, which is lambda + 1 here.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: the factor is less than 1.
        """
        if upweight < 1:
            raise ConfigError(f"model.upweight must be at least 1, but is {upweight}: set it to 100, say.")
        super().__init__(**kwargs)

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`Classifier`, or there is no helper.
        """
        super().check_fit(data)
        if not self.helpers.get("identification"):
            raise ConfigError(
                "JTT learns from the errors of an earlier stage and was handed none: put a stage of Vanilla before this"
                " one, say `erm`, and add `uses: {identification: erm}` here."
            )

    def on_fit_start(self) -> None:
        """Find the error set and let it come more often."""
        rows = error_set(self, self.helpers["identification"][0]).nonzero().flatten()
        self.trainer.datamodule.repeat_entries(rows, self.hparams["upweight"])  # type: ignore[attr-defined]


def error_set(module: Classifier, helper: Classifier, loss_threshold: float | None = None) -> Tensor:
    """Which real training images a helper misclassifies: a collective operation.

    Its size is logged as ``errors/count``, and where the images have bias labels also how well it finds true conflict
    with the bias: ``errors/precision``, ``errors/recall``, and ``errors/auroc``, that of the loss.

    Args:
        module: the module in training, which gives data, device and loggers.
        helper: a trained classifier.
        loss_threshold: leave out the images whose cross-entropy is not above it, in nats; None keeps all.

    Returns:
        Whether each image is in the set, bool [N], on the CPU, the same in every process.
    """
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    labels: Tensor = data.train_labels()
    logits = training_logits(module, helper)
    losses = cross_entropy(logits, labels)
    errors = logits.argmax(dim=1) != labels
    if loss_threshold is not None:
        errors &= losses > loss_threshold
    biases = data.train_biases()
    known = biases >= 0
    conflict = biases != torch.tensor(data.aligned_bias)[labels]
    _tell(module, errors, losses, known, conflict)
    return errors


@rank_zero_only
def _tell(module: Classifier, errors: Tensor, losses: Tensor, known: Tensor, conflict: Tensor) -> None:
    """Log the size of the error set, and how much of it is true conflict where that is known."""
    count = int(errors.sum())
    values = {"errors/count": float(count)}
    text = f"error set: {count} of {len(errors)} training images"
    if found := int((errors & known).sum()):
        hits, all_conflict = int((errors & known & conflict).sum()), int((known & conflict).sum())
        values |= {"errors/precision": hits / found, "errors/recall": hits / max(all_conflict, 1)}
        text += f", {hits} of the {all_conflict} in conflict with the bias"
    if bool((known & conflict).any()) and bool((known & ~conflict).any()):
        from sklearn.metrics import roc_auc_score  # that of torchmetrics takes great losses for equal

        values["errors/auroc"] = float(roc_auc_score(conflict[known].numpy(), losses[known].numpy()))
        text += f"; their losses rank with an AUROC of {values['errors/auroc']:.3f}"
    _log.info(text)
    if not count:
        _log.warning("the error set is empty: no image counts more than another")
    for logger in module.trainer.loggers:
        logger.log_metrics(values, step=module.global_step)
