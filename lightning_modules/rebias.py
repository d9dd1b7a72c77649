"""ReBias: features independent of those of a network that cannot help being biased."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .backbones import build_backbone, scores_and_features
from .classifier import Batch, Classifier
from .distributed import summed, world_size
from .errors import ConfigError
from .hsic import hsic, kernel, median_distance
from .losses import cross_entropy


class ReBias(Classifier):
    """ReBias (Bahng et al., arXiv 1910.02806): features independent of those of a network biased by design.

    ``network`` minimises its cross-entropy plus the dependence (:func:`hsic`) of its features on those of the other;
    ``biased_network``, which sees small patches only, say, minimises its own cross-entropy minus that dependence. The
    features are what the last layers see. Both take their steps at once; the reference code alternates, the biased
    network first.

    The dependence is estimated within the batch of each process; a batch of fewer than 4 images has none. Logs its mean
    as ``train/hsic``.
    """

    widths: Tensor

    def __init__(
        self,
        biased_backbone: str = "bagnet18",
        biased_backbone_args: dict[str, Any] | None = None,
        hsic_weight: float = 1.0,
        biased_hsic_weight: float = 1.0,
        kernel_width: float | Literal["median"] = 1.0,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            biased_backbone: backbone of the biased network; it starts from random values.
            biased_backbone_args: its further arguments, such as ``kernel_size`` of ``simpleconv``.
            hsic_weight: factor of the dependence in the loss of the network.
            biased_hsic_weight: factor of the dependence in that of the biased network.
            kernel_width: standard deviation of the Gaussian kernels; ``median`` takes, for each network, the median
                distance of its features in the first batch of the epoch. Features that start tiny, as those of ``mlp``
                with ``divide_by_255``, are then pushed about so hard that the network may die.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: the kernels have no positive width.
        """
        if kernel_width != "median" and not kernel_width > 0:
            raise ConfigError(f"model.kernel_width must be above 0 or median, but is {kernel_width}: set it to 1, say.")
        super().__init__(**kwargs)
        self.biased_network: nn.Module | None = None
        width = 1.0 if kernel_width == "median" else kernel_width
        self.register_buffer("widths", torch.full((2,), width), persistent=kernel_width == "median")
        self._measure = False

    def build(self) -> None:
        """Build both networks."""
        super().build()
        self.biased_network = self._new_biased_network(self.num_classes)

    def on_train_epoch_start(self) -> None:
        """Start new sums; have the kernels' widths measured anew where they follow the features."""
        super().on_train_epoch_start()
        self._measure = self.hparams["kernel_width"] == "median"

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the network and the sum of both networks' losses [B]."""
        network = self._built()
        assert self.biased_network is not None
        image, label = batch["image"].to(memory_format=torch.channels_last), batch["label"]
        logits, features = scores_and_features(network, image, self.num_classes)
        biased_logits, biased_features = scores_and_features(self.biased_network, image, self.num_classes)
        if self._measure:
            self._measure = False
            medians = torch.stack((median_distance(features), median_distance(biased_features)))
            self.widths.copy_(summed(medians) / world_size())
        # Each network takes the features of the other as they are.
        kernels = kernel(features, self.widths[0]), kernel(biased_features, self.widths[1])
        dependence = hsic(kernels[0], kernels[1].detach())
        biased_dependence = hsic(kernels[0].detach(), kernels[1])
        self.log("train/hsic", dependence.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=len(label))
        both = self.hparams["hsic_weight"] * dependence - self.hparams["biased_hsic_weight"] * biased_dependence
        return logits, cross_entropy(logits, label) + cross_entropy(biased_logits, label) + both

    def _new_biased_network(self, num_classes: int) -> nn.Module:
        args = self.hparams["biased_backbone_args"] or {}
        network = build_backbone(self.hparams["biased_backbone"], num_classes, **args)
        return network.to(memory_format=torch.channels_last)
