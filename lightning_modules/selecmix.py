"""SelecMix: training on mixtures of images that contradict the bias."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import Optimizer

from .backbones import build_backbone, split_head
from .classifier import Batch, Classifier
from .errors import ConfigError
from .lff import LfF
from .losses import check_q


class SelecMix(Classifier):
    """SelecMix (Hwang et al., arXiv 2211.02291) on plain training, as in their V+SelecMix.

    Every image i of a batch is mixed with a partner j out of the same batch: ``lambda x_i + (1 - lambda) x_j`` with
    lambda uniform in [0, 1/2), which is learnt as the class of the partner. By a coin for the whole batch the partners
    are the least similar images of the same class, or the most similar images of other classes. The similarity is that
    of an auxiliary network, which learns by :func:`contrastive_loss` to see mostly the bias; it is trained on the same
    images, by the same optimizer with a learning rate and a weight decay of its own.

    As in the reference code ``network`` sees the images themselves too where they have no weight in the loss, so that
    its batch normalisation knows what it is evaluated on. Where there are several processes each mixes its own batch.
    An image without a fitting partner is mixed with itself.
    """

    def __init__(
        self,
        mixed_weight: float = 1.0,
        real_weight: float = 0.0,
        pairs: Literal["both", "intra", "inter"] = "both",
        mini_batch: int | None = None,
        contrastive_q: float = 0.7,
        temperature: float = 0.2,
        auxiliary_backbone: str = "resnet18",
        auxiliary_small_images: bool = True,
        auxiliary_lr: float | None = None,
        auxiliary_weight_decay: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the networks are built later.

        Args:
            mixed_weight: factor of the mixed images' cross-entropy, the a of the reference code.
            real_weight: factor of the images' own loss, its b.
            pairs: partners of the same class (intra), of other classes (inter), or either by a coin.
            mini_batch: take a step for about this many images of a batch at a time, at least 2; the partners are
                looked for in the whole batch. None takes one step a batch. The reference code looks among 1024 images
                and takes steps of 256, for large images among 256 and of 64.
            contrastive_q: exponent of the contrastive loss, in [0, 1].
            temperature: by which the contrastive loss divides similarities, greater than 0.
            auxiliary_backbone: see ``backbone``; its last layer is replaced by two that end in 128 features.
            auxiliary_small_images: see ``small_images``; the reference code sets this for all image sizes.
            auxiliary_lr: learning rate of the auxiliary network; None takes ``lr``.
            auxiliary_weight_decay: its weight decay.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        check_q(contrastive_q)
        if temperature <= 0:
            raise ConfigError(f"model.temperature must be greater than 0, but is {temperature}: set it to 0.2, say.")
        if min(mixed_weight, real_weight) < 0 or mixed_weight + real_weight == 0:
            raise ConfigError("model.mixed_weight and model.real_weight must be at least 0, and one of them greater.")
        if mini_batch is not None and mini_batch < 2:
            raise ConfigError(f"model.mini_batch must be at least 2, but is {mini_batch}: set it to 256, say.")
        super().__init__(**kwargs)
        self.auxiliary: nn.Module | None = None
        self._part, self._parts = 0, 1

    # Building

    def build(self) -> None:
        """Build the classifier, and the auxiliary network from images [B, 3, H, W] to features [B, 128]."""
        super().build()
        encoder, width = self._encoder(self.num_classes)
        head = (nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, 128))
        self.auxiliary = nn.Sequential(encoder, *head).to(memory_format=torch.channels_last)

    def _encoder(self, num_classes: int) -> tuple[nn.Module, int]:
        small_images = self.hparams["auxiliary_small_images"]
        return split_head(
            build_backbone(self.hparams["auxiliary_backbone"], num_classes, None, small_images), num_classes
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters of the classifier, and those of the contrastive network with settings of their own."""
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        own = [parameter for name, parameter in named if not name.startswith("auxiliary.")]
        auxiliary = [parameter for name, parameter in named if name.startswith("auxiliary.")]
        lr = self.hparams["auxiliary_lr"]
        settings = {
            "lr": self.hparams["lr"] if lr is None else lr,
            "weight_decay": self.hparams["auxiliary_weight_decay"],
        }
        return [{"params": own}, {"params": auxiliary, **settings}]

    # Training

    def on_fit_start(self) -> None:
        """Refuse what mini-batches rule out.

        Raises:
            ConfigError: gradients shall be accumulated over batches.
        """
        super().on_fit_start()
        if self.hparams["mini_batch"] is not None and self.trainer.accumulate_grad_batches > 1:
            raise ConfigError("model.mini_batch takes several steps a batch: set trainer.accumulate_grad_batches to 1.")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Mix the images of the batch, which gets ``mixed`` [B, 3, H, W] and its classes ``mixed_label`` [B]."""
        image, label = batch["image"], batch["label"]
        pairs = self.hparams["pairs"]
        intra = bool(torch.rand(()) > 0.5) if pairs == "both" else pairs == "intra"
        with torch.no_grad():
            partner = contradicting_partners(self.similarity_features(image), label, intra)
        own_share = 0.5 * torch.rand(len(label), 1, 1, 1, device=image.device, dtype=image.dtype)
        batch["mixed"] = own_share * image + (1 - own_share) * image[partner]
        batch["mixed_label"] = label[partner]
        self._parts = max(1, len(label) // (self.hparams["mini_batch"] or len(label)))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take a step for every mini-batch of the batch; the Trainer counts them as one."""
        for part in range(self._parts):
            self._part = part
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean of :meth:`training_losses` over the mini-batch that has its turn."""
        return super().training_step({key: part[self._part :: self._parts] for key, part in batch.items()}, batch_idx)

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C] of the images, and the sum of their losses, those of the mixed ones and the auxiliary ones [B].

        Args:
            batch: as :meth:`on_train_batch_start` leaves it.
        """
        weight, real_weight = self.hparams["mixed_weight"], self.hparams["real_weight"]
        with torch.set_grad_enabled(real_weight > 0):
            logits, losses = super().training_losses(batch)
        mixed_losses = self.per_sample_loss(self(batch["mixed"]), batch["mixed_label"])
        contrastive = contrastive_loss(
            self.similarity_features(batch["image"]),
            batch["label"],
            self.hparams["contrastive_q"],
            self.hparams["temperature"],
        )
        return logits, real_weight * losses + weight * mixed_losses + contrastive

    def similarity_features(self, image: Tensor) -> Tensor:
        """Features [B, 128] of unit length, float32, of normalised images [B, 3, H, W]."""
        self.configure_model()
        assert self.auxiliary is not None
        return F.normalize(self.auxiliary(image.to(memory_format=torch.channels_last)).float(), dim=1)


class SelecMixLfF(SelecMix, LfF):
    """SelecMix on Learning from Failure, as in their L+SelecMix: mixed images are learnt beside LfF's own losses."""

    def __init__(self, mixed_weight: float = 0.1, real_weight: float = 1.0, **kwargs: Any) -> None:
        """Keep the settings; the networks are built later.

        Args:
            mixed_weight: factor of the mixed images' cross-entropy, the a of the reference code.
            real_weight: factor of the losses of both networks of :class:`LfF`, greater than 0; the reference code
                leaves the biased network's at 1, which is the same for its b = 1.
            **kwargs: see :class:`SelecMix`, :class:`LfF` and :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if real_weight == 0:
            raise ConfigError("model.real_weight must be greater than 0, or the networks of LfF learn nothing.")
        super().__init__(mixed_weight=mixed_weight, real_weight=real_weight, **kwargs)


def contradicting_partners(features: Tensor, label: Tensor, intra: bool) -> Tensor:
    """The partner of every image of a batch; the image itself where no other fits.

    Args:
        features: of unit length [B, D].
        label: class numbers [B], int64.
        intra: take the least similar image of the same class, or else the most similar one of another class.

    Returns:
        Rows [B], int64.
    """
    similarity = features @ features.T
    same = label[:, None] == label
    # A cosine lies in [-1, 1]: 2 and -2 make the image itself the last resort.
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    if intra:
        return similarity.masked_fill(~same, torch.inf).masked_fill(itself, 2.0).argmin(dim=1)
    return similarity.masked_fill(same, -torch.inf).masked_fill(itself, -2.0).argmax(dim=1)


def contrastive_loss(features: Tensor, label: Tensor, q: float = 0.7, temperature: float = 0.2) -> Tensor:
    """Generalised supervised contrastive loss of every image of a batch, as in the reference code of SelecMix.

    With p_ij the softmax of the similarities of image i to all others, divided by the temperature, it is the mean of
    ``q stopgrad(p_ij^q) (-log p_ij)`` over the other images j of the class: the generalised cross-entropy in the form
    whose gradient is q times the true one. An image that is alone in its class has the loss 0.

    Source: Hwang et al., arXiv 2211.02291, on the loss of Khosla et al., arXiv 2004.11362.

    Args:
        features: of unit length [B, D].
        label: class numbers [B], int64.
        q: exponent in [0, 1]; 0 is the supervised contrastive loss itself, without the factor.
        temperature: greater than 0.

    Returns:
        The losses [B], float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        similarity = features.float() @ features.float().T / temperature
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    positive = (label[:, None] == label) & ~itself
    # Finite, so that no gradient is lost of an image that is alone in its batch.
    log_p = similarity.masked_fill(itself, -1e9).log_softmax(dim=1)
    trust = q * (q * log_p.detach()).exp() if q else 1.0
    losses = torch.where(positive, trust * -log_p, 0.0)
    return losses.sum(dim=1) / positive.sum(dim=1).clamp_min(1)
