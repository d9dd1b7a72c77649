"""Disentangled feature augmentation: debiasing by swapping what two encoders saw of the bias."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .backbones import split_head
from .classifier import Batch
from .lff import LfF
from .losses import cross_entropy


class DisEnt(LfF):
    """Disentangled feature augmentation (Lee et al., arXiv 2107.01372): Learning from Failure with codes to swap.

    ``network`` has two encoders. Both of its linear classifiers see both codes, but each teaches its own encoder alone:
    the intrinsic one by cross-entropy times the relative difficulty W(x), the biased one by the generalised
    cross-entropy (L_dis, equation 2). Later the same losses are added for bias codes permuted within the batch, whose
    own labels the biased classifier then has to tell (L_swap, equation 3); W stays that of the image that gave the
    intrinsic code. Each process permutes its own images.

    With helpers named ``ensemble`` it is DisEnt + BE (BiasEnsemble, arXiv 2205.14594): the biased classifier learns by
    cross-entropy from the bias-amplified set alone; of a permuted pair, the image counts that gave the bias code. With
    ``biased: amplifier`` W comes from the losses of a frozen helper (:class:`LfF`), and all else stays.

    The reference code lets a StepLR of 10,000 steps count from ``swap_from`` on. That is a MultiStepLR with milestones
    20000, 30000 and 40000 where ``swap_from`` is 10000 and ``scheduler_interval`` is step.
    """

    network_kind: ClassVar[str] = "pair of encoders"
    trains_biased: ClassVar[bool] = True

    def __init__(
        self,
        lambda_dis: float = 1.0,
        lambda_swap_b: float = 1.0,
        lambda_swap: float = 1.0,
        swap_from: int = 10_000,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            lambda_dis: factor of the biased classifier's loss.
            lambda_swap_b: factor of the biased classifier's loss of permuted codes.
            lambda_swap: factor of all losses of permuted codes.
            swap_from: codes are permuted after more than this many optimizer steps.
            **kwargs: see :class:`LfF` and :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        super().__init__(**kwargs)

    def build(self) -> None:
        """Build both encoders and both classifiers."""
        self.network = self.new_network()

    def new_network(self) -> nn.Module:
        """A new :class:`DisentangledNetwork` with two encoders of the kind that the settings ask for."""
        return DisentangledNetwork(super().new_network(), super().new_network(), self.num_classes)

    def features(self, image: Tensor) -> Tensor:
        """Intrinsic codes [B, D] of normalised images [B, 3, H, W]."""
        codes: Tensor = self._network().encoder(image.to(memory_format=torch.channels_last))
        return codes

    def biased_logits(self, image: Tensor) -> Tensor:
        """Scores [B, C] of the biased classifier, of normalised images [B, 3, H, W]."""
        network = self._network()
        return network.classify(*network.encode(image.to(memory_format=torch.channels_last)))[1]

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the intrinsic classifier and the sum of all losses [B], equation 4."""
        settings, network, label = self.hparams, self._network(), batch["label"]
        rows = batch["index"] + batch["synthetic"] * self._real
        code, biased_code = network.encode(batch["image"].to(memory_format=torch.channels_last))
        logits, biased_logits = network.classify(code, biased_code)
        loss = cross_entropy(logits, label)
        weight = self.relative_difficulty(rows, label, loss, biased_logits)
        losses = weight * loss + settings["lambda_dis"] * self.biased_objective(biased_logits, label, rows)
        if self.global_step > settings["swap_from"]:
            order = torch.randperm(len(label), device=label.device)
            swapped, biased_swapped = network.classify(code, biased_code[order])
            biased_loss = self.biased_objective(biased_swapped, label[order], rows[order])
            swap_losses = weight * cross_entropy(swapped, label) + settings["lambda_swap_b"] * biased_loss
            losses = losses + settings["lambda_swap"] * swap_losses
        return logits, losses

    def _network(self) -> "DisentangledNetwork":
        return cast(DisentangledNetwork, self._built())


class DisentangledNetwork(nn.Module):
    """An encoder and a linear classifier for the class, the same for the bias; both classifiers see both codes."""

    def __init__(self, network: nn.Module, biased_network: nn.Module, num_classes: int) -> None:
        """Make encoders of two classifiers.

        Args:
            network: from images [B, 3, H, W] to scores [B, C]; its last layer is taken off.
            biased_network: the like, with codes of the same width D.
            num_classes: number of classes C.

        Raises:
            ConfigError: the last layer is not linear.
        """
        super().__init__()
        self.encoder, width = split_head(network, num_classes)
        self.biased_encoder, _ = split_head(biased_network, num_classes)
        self.biased_head = nn.Linear(2 * width, num_classes)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of the intrinsic classifier, of images [B, 3, H, W]."""
        return self.classify(*self.encode(image))[0]

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Intrinsic codes and bias codes [B, D] of images [B, 3, H, W]."""
        return self.encoder(image), self.biased_encoder(image)

    def classify(self, code: Tensor, biased_code: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the intrinsic and of the biased classifier.

        Args:
            code: intrinsic codes [B, D]; no gradient of the biased classifier reaches them.
            biased_code: bias codes [B, D]; no gradient of the intrinsic classifier reaches them.
        """
        logits: Tensor = self.head(torch.cat((code, biased_code.detach()), dim=1))
        biased_logits: Tensor = self.biased_head(torch.cat((code.detach(), biased_code), dim=1))
        return logits, biased_logits
