"""Learning from Failure, and its refinement with a bias-amplified set."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .bias_ensemble import amplified_set, check_agreement, inside
from .classifier import Batch, Classifier
from .difficulty import RelativeDifficulty
from .errors import ConfigError
from .losses import check_q, cross_entropy, generalized_cross_entropy


class LfF(Classifier):
    """Learning from Failure (Nam et al., arXiv 2007.02561): a biased network tells the other one what to learn from.

    Both are trained together, the biased one by the generalised cross-entropy, the other (``network``, the classifier)
    by cross-entropy times the relative difficulty W(x) of :class:`RelativeDifficulty`.

    With helpers named ``ensemble`` it is LfF + BE (BiasEnsemble, Lee et al., arXiv 2205.14594): the biased network
    learns by cross-entropy from the images of the bias-amplified set alone, see :func:`amplified_set`.
    """

    helper_names: ClassVar[tuple[str, ...]] = ("ensemble",)

    def __init__(
        self,
        q: float = 0.7,
        weighted_gce: bool = True,
        ema: float = 0.7,
        class_max: bool = True,
        confidence: float = 0.99,
        agreement: int = 3,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            q: exponent of the generalised cross-entropy, in [0, 1].
            weighted_gce: its form in the reference code, whose gradient is q times the true one.
            ema: share of the old value that the running average of an image's loss keeps, in [0, 1).
            class_max: divide these averages by their greatest value in the class, as the reference code does.
            confidence: with an ensemble: the probability of its class above which a member marks an image.
            agreement: with an ensemble: how many members must mark an image.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        check_q(q)
        super().__init__(**kwargs)
        self.difficulty = RelativeDifficulty(ema, class_max)
        self.biased_network: nn.Module | None = None
        self.amplified: Tensor | None = None
        self._real = 0
        # All processes hold the same averages already.
        self._ddp_params_and_buffers_to_ignore = ["difficulty.average", "difficulty.seen", "difficulty.place"]

    def build(self) -> None:
        """Build both networks."""
        super().build()
        self.biased_network = self.new_network()

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`Classifier`, or more members of an ensemble must agree than there are.
        """
        super().check_fit(data)
        if ensemble := self.helpers.get("ensemble"):
            check_agreement(self.hparams["agreement"], len(ensemble))

    def on_fit_start(self) -> None:
        """Get ready for the images of this stage."""
        entries = self.trainer.datamodule.train_table()  # type: ignore[attr-defined]
        self.difficulty.arrange(entries.labels, self.num_classes)
        self._real = entries.real
        if ensemble := self.helpers.get("ensemble"):
            self.difficulty.epsilon = 1e-8
            settings = self.hparams
            amplified = amplified_set(self, ensemble, settings["confidence"], settings["agreement"])
            # Nothing is known of synthetic images: the biased network leaves them out.
            self.amplified = F.pad(amplified, (0, len(entries) - entries.real)).to(self.device)

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the debiased network and the sum of both networks' losses [B]."""
        label = batch["label"]
        rows = batch["index"] + batch["synthetic"] * self._real
        logits, biased_logits = self(batch["image"]), self.biased_logits(batch["image"])
        loss = cross_entropy(logits, label)
        biased_loss = cross_entropy(biased_logits.detach(), label)
        weight = self.difficulty(rows, label, biased_loss, loss.detach())
        return logits, self.biased_objective(biased_logits, label, rows) + weight * loss

    def biased_objective(self, logits: Tensor, label: Tensor, rows: Tensor) -> Tensor:
        """Losses [B] that teach what is biased, of its scores [B, C], of labels [B] and of rows [B] of the entries."""
        if self.amplified is not None:
            return inside(cross_entropy(logits, label), self.amplified[rows])
        return generalized_cross_entropy(logits, label, self.hparams["q"], self.hparams["weighted_gce"])

    def biased_logits(self, image: Tensor) -> Tensor:
        """Scores [B, C] of the biased network, of normalised images [B, 3, H, W]."""
        self.configure_model()
        assert self.biased_network is not None
        logits: Tensor = self.biased_network(image.to(memory_format=torch.channels_last))
        return logits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the running averages.

        Raises:
            ConfigError: see :class:`Classifier`, or the checkpoint has no running averages.
        """
        super().on_load_checkpoint(checkpoint)
        average = checkpoint["state_dict"].get("difficulty.average")
        if average is None:
            raise ConfigError(
                f"the checkpoint holds no losses of training images, so {type(self).__name__} did not write it: "
                "give another."
            )
        self.difficulty.resize(average.shape[1])
