"""Learning from Failure, and its refinement with a bias-amplified set."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .bias_ensemble import amplified_set, check_agreement, inside
from .classifier import Batch, Classifier
from .difficulty import RelativeDifficulty
from .errors import ConfigError
from .losses import check_q, cross_entropy, generalized_cross_entropy
from .scoring import training_logits


class LfF(Classifier):
    """Learning from Failure (Nam et al., arXiv 2007.02561): a biased network tells the other one what to learn from.

    Both are trained together, the biased one by the generalised cross-entropy, the other (``network``, the classifier)
    by cross-entropy times the relative difficulty W(x) of :class:`RelativeDifficulty`.

    With helpers named ``ensemble`` it is LfF + BE (BiasEnsemble, Lee et al., arXiv 2205.14594): the biased network
    learns by cross-entropy from the images of the bias-amplified set alone, see :func:`amplified_set`.

    With ``biased: amplifier`` it is the second recipe of Diffusing DeBias (arXiv 2502.09564, section 3): the frozen
    helper named ``amplifier`` takes the place of the biased network. Its losses are computed once, of images without
    augmentation.
    """

    helper_names: ClassVar[tuple[str, ...]] = ("ensemble", "amplifier")
    trains_biased: ClassVar[bool] = False  # whether something biased is trained even where there is an amplifier

    def __init__(
        self,
        q: float = 0.7,
        weighted_gce: bool = True,
        ema: float = 0.7,
        class_max: bool = True,
        confidence: float = 0.99,
        agreement: int = 3,
        biased: Literal["trained", "amplifier"] = "trained",
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
            biased: whose losses tell what is easy with the bias: those of a network that is trained along, or those of
                the helper ``amplifier``.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        check_q(q)
        super().__init__(**kwargs)
        self.difficulty = RelativeDifficulty(ema, class_max)
        self.biased_network: nn.Module | None = None
        self.amplified: Tensor | None = None
        self.amplifier_losses: Tensor | None = None
        self._real = 0
        # All processes hold the same averages already.
        self._ddp_params_and_buffers_to_ignore = ["difficulty.average", "difficulty.seen", "difficulty.place"]

    def build(self) -> None:
        """Build both networks, or the one that is trained."""
        super().build()
        if self.hparams["biased"] == "trained":
            self.biased_network = self.new_network()

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`Classifier`; more members of an ensemble must agree than there are; the amplifier
                is missing, or not asked for, or there are synthetic images, of which it says nothing.
        """
        super().check_fit(data)
        if ensemble := self.helpers.get("ensemble"):
            check_agreement(self.hparams["agreement"], len(ensemble))
        amplifier, asked = self.helpers.get("amplifier"), self.hparams["biased"] == "amplifier"
        if asked and not amplifier:
            raise ConfigError(
                "model.biased=amplifier, but there is none: put a stage before this one, say `amplifier`, and add "
                "`uses: {amplifier: amplifier}` here."
            )
        if asked and ensemble and not self.trains_biased:
            raise ConfigError("uses: ensemble has no effect with model.biased=amplifier: leave one of them out.")
        if amplifier and not asked:
            raise ConfigError("uses: amplifier has no effect with model.biased=trained: set it to amplifier.")
        if asked and getattr(data, "source", "real") != "real":
            raise ConfigError("model.biased=amplifier learns from real images: set the stage's data to real.")

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
        if amplifier := self.helpers.get("amplifier"):
            logits = training_logits(self, amplifier[0])
            self.amplifier_losses = cross_entropy(logits, entries.labels).to(self.device)

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the debiased network and the sum of both networks' losses [B]."""
        label = batch["label"]
        rows = batch["index"] + batch["synthetic"] * self._real
        logits = self(batch["image"])
        loss = cross_entropy(logits, label)
        if self.hparams["biased"] == "amplifier":
            return logits, self.relative_difficulty(rows, label, loss) * loss
        biased_logits = self.biased_logits(batch["image"])
        weight = self.relative_difficulty(rows, label, loss, biased_logits)
        return logits, self.biased_objective(biased_logits, label, rows) + weight * loss

    def relative_difficulty(
        self, rows: Tensor, label: Tensor, loss: Tensor, biased_logits: Tensor | None = None
    ) -> Tensor:
        """Weights W(x) [B] of rows [B] of the entries, see :class:`RelativeDifficulty`.

        Args:
            rows: which images, int64 [B].
            label: their classes, int64 [B].
            loss: their losses under the debiased network, float [B].
            biased_logits: their scores [B, C] by what is biased; not asked for where there is an amplifier.
        """
        if self.amplifier_losses is not None:
            biased_loss = self.amplifier_losses[rows]
        else:
            assert biased_logits is not None
            biased_loss = cross_entropy(biased_logits.detach(), label)
        weight: Tensor = self.difficulty(rows, label, biased_loss, loss.detach())
        return weight

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
