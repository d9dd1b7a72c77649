"""Group distributionally robust optimisation."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .classifier import Batch, Classifier
from .distributed import summed, world_size
from .errors import ConfigError
from .exact_buffers import ExactBuffers
from .jtt import error_set


class GroupDRO(ExactBuffers, Classifier):
    """Group DRO (Sagawa et al., arXiv 1911.08731, algorithm 1): the groups that are learnt worst count most.

    A group is a class together with a bias attribute; the images of a class whose bias is unknown, as that of synthetic
    images, are one more. Each step takes the mean loss l_g of every group in the batch (0 where it has no image there),
    sets ``q_g <- q_g exp(step_size * (l_g + adjustment / sqrt(n_g)))`` with n_g training images in the group, makes the
    q_g sum to 1, and minimises the sum of q_g l_g. The batch is that of all processes together.

    With ``groups: errors`` no bias label is needed: in place of the bias stands whether the helper named ``amplifier``
    misclassifies the image, which is recipe I of Diffusing DeBias (arXiv 2502.09564).

    The weights q are in the checkpoint. Their code draws all groups equally often (``reweight_groups``) and selects by
    the worst group of the validation set.
    """

    helper_names: ClassVar[tuple[str, ...]] = ("amplifier",)
    exact = ("group_weights",)
    group_weights: Tensor

    def __init__(
        self,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        groups: Literal["labels", "errors"] = "labels",
        loss_threshold: float | None = None,
        split_synthetic: bool = False,
        reweight_groups: bool = False,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the network is built later.

        Args:
            step_size: how fast the weights of the groups follow the losses, greater than 0.
            adjustment: the C of their adjustment for small groups, at least 0.
            groups: by bias labels, or by the errors of the helper ``amplifier``.
            loss_threshold: with ``errors``: only an error with a greater cross-entropy, in nats, is held for conflict
                with the bias; None takes every error.
            split_synthetic: synthetic images never share a group with real ones, whatever bias they are labelled with.
            reweight_groups: draw the images with replacement, so that all groups come equally often, whatever
                ``data.balance`` says.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if not (math.isfinite(step_size) and step_size > 0):
            raise ConfigError(f"model.step_size must be greater than 0, but is {step_size}: set it to 0.01, say.")
        if not (math.isfinite(adjustment) and adjustment >= 0):
            raise ConfigError(f"model.adjustment must be at least 0, but is {adjustment}: set it to 0 for none.")
        if loss_threshold is not None and groups == "labels":
            raise ConfigError("model.loss_threshold has no effect with model.groups=labels: set that to errors.")
        super().__init__(**kwargs)
        self.register_buffer("group_weights", torch.zeros(0))
        self._groups = torch.zeros(0, dtype=torch.int64)
        self._margins = torch.zeros(0)
        self._real = 0
        # All processes hold the same weights already.
        self._ddp_params_and_buffers_to_ignore = ["group_weights"]

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`Classifier`, or there are no bias labels or no helper to take the groups from.
        """
        super().check_fit(data)
        if self.hparams["groups"] == "errors":
            if not self.helpers.get("amplifier"):
                raise ConfigError(
                    "model.groups=errors takes the groups from an earlier stage and was handed none: put a stage that "
                    "follows the bias before this one, say `biased`, and add `uses: {amplifier: biased}` here."
                )
        elif data.source != "synthetic":  # what is not drawn yet has no labels yet
            images = f"training images of {type(data).__name__}"
            _check_labels(data.train_biases(), images, "take JTT or LfF")

    def on_fit_start(self) -> None:
        """Find the group of every training image.

        Raises:
            ConfigError: the checkpoint has other groups, or synthetic images alone have no bias labels.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        entries, num_biases = data.train_table(), len(data.bias_names)
        self._real = entries.real
        first = entries.real if data.source == "synthetic" else 0
        if self.hparams["groups"] == "labels":
            _check_labels(entries.biases[first:], f"{data.source} images", "give prompts that name the {bias}")
        else:
            entries, num_biases = dataclasses.replace(entries, biases=self._errors(len(entries))), 2
        groups = entries.groups(num_biases)
        size = self.num_classes * (num_biases + 1)
        if self.hparams["split_synthetic"]:
            groups[entries.real :] += size
            size *= 2
        self._arrange(groups, torch.bincount(groups[first:], minlength=size))
        if self.hparams["reweight_groups"]:
            data.balance_entries(groups)

    def _errors(self, count: int) -> Tensor:
        """Whether the helper misclassifies an image, int64 [count]: 0 or 1, -1 for synthetic images."""
        errors = torch.full((count,), -1)
        errors[: self._real] = error_set(self, self.helpers["amplifier"][0], self.hparams["loss_threshold"]).long()
        return errors

    def _arrange(self, groups: Tensor, sizes: Tensor) -> None:
        """Start with equal weights for the groups that have images, unless a checkpoint gave weights."""
        exists = sizes > 0
        if not len(self.group_weights):
            self.group_weights = (exists / exists.sum()).to(self.device)
        elif len(self.group_weights) != len(sizes):
            raise ConfigError(
                f"the checkpoint has the weights of {len(self.group_weights)} groups, but there are {len(sizes)}: "
                "go on with the data it was trained on."
            )
        self._groups = groups.to(self.device)
        self._margins = (self.hparams["adjustment"] * exists / sizes.clamp_min(1).sqrt()).to(self.device)

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, C], and losses [B] whose mean over the batches of all processes is the sum of q_g l_g."""
        logits = self(batch["image"])
        losses = self.per_sample_loss(logits, batch["label"])
        group = self._groups[batch["index"] + batch["synthetic"] * self._real]
        return logits, losses * self._weigh(group, losses.detach())

    def _weigh(self, group: Tensor, losses: Tensor) -> Tensor:
        """Update the weights of the groups by a batch and share them out among its samples, float [B]."""
        member = (group[:, None] == torch.arange(len(self.group_weights), device=group.device)).to(losses.dtype)
        total, count = summed(torch.stack(((member * losses[:, None]).sum(dim=0), member.sum(dim=0)))).unbind()
        means = total / count.clamp_min(1)
        raised: Tensor = self.group_weights * torch.exp(self.hparams["step_size"] * (means + self._margins))
        self.group_weights = raised / raised.sum()
        return self.group_weights[group] * (world_size() * len(losses)) / count[group]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the weights of the groups.

        Raises:
            ConfigError: see :class:`Classifier`, or the checkpoint has no such weights.
        """
        super().on_load_checkpoint(checkpoint)
        weights = checkpoint["state_dict"].get("group_weights")
        if weights is None:
            raise ConfigError("the checkpoint holds no weights of groups, so GroupDRO did not write it: give another.")
        self.group_weights = torch.zeros_like(weights, device=self.device)


def _check_labels(biases: Tensor, images: str, remedy: str) -> None:
    if not bool((biases >= 0).any()):
        raise ConfigError(
            f"GroupDRO needs bias labels, and the {images} have none: set model.groups to errors, or {remedy}."
        )
