"""The base of every classifier: network, optimizer, metrics and checkpoints."""

import textwrap
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .backbones import FROM_CHECKPOINT, build_backbone, find_head, scores_and_features
from .errors import ConfigError, TrainingError
from .losses import cross_entropy
from .metrics import GroupMetrics
from .staged import StagedModule

Batch = dict[str, Tensor]

_CLASSES_KEY = "diffubias_classes"


class Classifier(StagedModule):
    """An image classifier trained with a loss per sample, cross-entropy unless a subclass says otherwise.

    ``network`` is what classifies. A method that trains further networks builds them in :meth:`build`, and puts its own
    objective into :meth:`training_losses`.

    Batches are dicts of ``image`` float32 [B, 3, H, W], ``label``, ``bias`` (-1 where unknown) and ``index`` int64 [B],
    and ``synthetic`` bool [B]; where a judge has weighed synthetic images also ``weight`` float32 [B]. The network is
    built by :meth:`configure_model`, on the CPU whatever the accelerator, so that a seed means the same start
    everywhere. Hyper-parameters hold plain values only, so checkpoints load with ``weights_only=True``.

    Logs ``train/loss`` and ``train/accuracy``, and the values of :class:`GroupMetrics` under ``val/`` and ``test/``;
    under ``watched/`` where the data module has the test set watched in training, and under ``synthetic/`` where it
    tests synthetic images too.

    Attributes:
        network_kind: what ``network`` is; a stage can start from the weights of the same kind only.
        train_means: mean loss and accuracy [2] of the training in the epoch up to the last validation, over all
            processes; None before.
    """

    network_kind: ClassVar[str] = "network"

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: str = "resnet18",
        weights: str | None = None,
        small_images: bool = False,
        backbone_args: dict[str, Any] | None = None,
        lr: float = 1e-3,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        select_by: Literal["accuracy", "worst_class", "worst_group", "balanced", "conflict"] = "accuracy",
        head_only: bool = False,
        freeze_bn: bool = False,
    ) -> None:
        """Keep the settings; the network is built later.

        Args:
            num_classes: number of classes C; None asks the data module.
            backbone: a torchvision classification model, or one of our own small ones: ``smallresnet`` and ``resnet20``
                for 32-pixel images, ``mlp`` for digits, ``simpleconv`` and ``bagnet18`` as in ReBias.
            weights: pretrained torchvision weights, such as ``DEFAULT``; None starts from random values.
            small_images: ResNet family only: a stem for images under 100 pixels.
            backbone_args: further arguments of our own backbones, such as ``hidden`` of ``mlp``.
            lr: the learning rate; it wins over one given inside ``optimizer``.
            optimizer: the optimizer, everything but its learning rate.
            scheduler: learning-rate scheduler; None keeps the rate.
            scheduler_interval: whether the scheduler counts epochs or optimizer steps.
            select_by: the validation value by which the best epoch is chosen; all but ``accuracy`` and ``worst_class``
                need bias labels in the validation set.
            head_only: train the last layer alone; the others keep the weights that they start with, but the statistics
                of batch normalisation move on.
            freeze_bn: batch normalisation keeps the statistics that the network starts with, as the second stage of
                From Fake to Real may (arXiv 2308.04553).
        """
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.network: nn.Module | None = None
        self._loss_sum: Tensor | None = None
        self._correct_sum: Tensor | None = None
        self._train_count = 0
        self.train_means: Tensor | None = None

    # Building

    def configure_model(self) -> None:
        """Build the network and the metrics, once.

        Raises:
            ConfigError: the number of classes is known nowhere, or the backbone cannot be built.
        """
        if self.network is not None:
            return
        data = getattr(self._trainer, "datamodule", None)
        if self.hparams["num_classes"] is None:
            if data is None:
                raise ConfigError("model.num_classes is not set and there is no data module to ask: set it.")
            self.hparams["num_classes"] = int(data.num_classes)
        with torch.device("cpu"):
            self.build()
        self._new_metrics()

    def setup(self, stage: str) -> None:
        """Measure as these data say, where the network was built without them, as that of a loaded checkpoint.

        Raises:
            ConfigError: see :meth:`check_fit`.
        """
        if self.network is not None:
            self._new_metrics()
        super().setup(stage)

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`StagedModule`, or an epoch is to be chosen by labels that the data lack.
        """
        super().check_fit(data)
        select_by = self.hparams["select_by"]
        if not getattr(data, "has_bias", True) and select_by not in ("accuracy", "worst_class"):
            raise ConfigError(
                f"model.select_by={select_by} needs bias labels and {type(data).__name__} has none: "
                "set it to worst_class."
            )

    def _new_metrics(self) -> None:
        data = getattr(self._trainer, "datamodule", None)
        biases = tuple(getattr(data, "bias_names", ()))
        aligned = getattr(data, "aligned_bias", None)
        names = {"class_names": self._class_names(), "bias_names": biases}
        self.val_metrics = GroupMetrics(self.num_classes, len(biases) or None, "val", aligned, **names)
        self.test_metrics = GroupMetrics(self.num_classes, len(biases) or None, "test", aligned, **names)
        self.synthetic_metrics = GroupMetrics(self.num_classes, len(biases) or None, "synthetic", aligned, **names)

    def _class_names(self) -> list[str]:
        """Names of the classes of the attached data; none where there are no data or they name no class."""
        return [str(name) for name in getattr(getattr(self._trainer, "datamodule", None), "class_names", ())]

    def build(self) -> None:
        """Build ``network``, and in a subclass whatever else is trained; the number of classes is known here.

        Raises:
            ConfigError: the backbone cannot be built.
        """
        self.network = self.new_network()

    def new_network(self) -> nn.Module:
        """A new network of the kind that the settings ask for, from images [B, 3, H, W] to scores [B, C]."""
        network = self._new_backbone(self.num_classes).to(memory_format=torch.channels_last)
        if self.hparams["head_only"]:
            network.requires_grad_(False)
            find_head(network, self.num_classes)[1].requires_grad_(True)
        return network

    def _new_backbone(self, num_classes: int) -> nn.Module:
        names = ("backbone", "weights", "small_images", "backbone_args")
        backbone, weights, small_images, args = (self.hparams[name] for name in names)
        return build_backbone(backbone, num_classes, weights, small_images, **(args or {}))

    def check(self, data: Any) -> None:
        """Build the networks and the optimizer once, and show them two images.

        Raises:
            ConfigError: something cannot be built, or does not fit the classes or the size of the images.
        """
        asked, classes = self.hparams["num_classes"], data.num_classes
        if asked not in (None, classes):
            raise ConfigError(f"model.num_classes is {asked}, but the data have {classes} classes: leave it out")
        self.hparams["num_classes"] = classes
        self.configure_model()
        self._try(data.image_size)
        self.configure_optimizers()

    def _try(self, size: int) -> None:
        """Refuse a network that gives no scores [2, C] for images [2, 3, size, size] while it learns."""
        backbone = self.hparams["backbone"]
        try:
            with torch.no_grad():
                scores = self.train()(torch.zeros(2, 3, size, size))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(
                f"model.backbone: {backbone} cannot take images of {size} pixels; set data.image_size, or another "
                f"backbone ({' '.join(str(error).split())[:150]})"
            ) from error
        if not isinstance(scores, Tensor) or scores.shape != (2, self.num_classes):
            raise ConfigError(
                f"model.backbone: {backbone} gives something else than a score for each class while it learns; take "
                "another backbone"
            )

    @property
    def monitor(self) -> str:
        """Name of the logged value by whose maximum the best epoch is chosen; never one of the test set."""
        return f"val/{self.hparams['select_by']}"

    @property
    def num_classes(self) -> int:
        """Number of classes C, once it is known."""
        return int(self.hparams["num_classes"])

    def _built(self) -> nn.Module:
        self.configure_model()
        if self.network is None:
            raise RuntimeError("configure_model built no network")
        return self.network

    # Computing

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, C] of normalised images [B, 3, H, W]."""
        logits: Tensor = self._built()(image.to(memory_format=torch.channels_last))
        return logits

    def features(self, image: Tensor) -> Tensor:
        """What the last layer sees [B, D] of normalised images [B, 3, H, W]."""
        return scores_and_features(self._built(), image.to(memory_format=torch.channels_last), self.num_classes)[1]

    def per_sample_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Losses [B], float32, of scores [B, C] and labels [B]."""
        return cross_entropy(logits, label)

    def sample_weights(self, batch: Batch) -> Tensor | None:
        """Factors [B] of the losses of a batch; None means 1 throughout."""
        return None

    def training_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The objective of a method.

        Args:
            batch: see the class.

        Returns:
            Scores [B, C] of ``network``, and losses [B] whose mean is minimised.
        """
        logits = self(batch["image"])
        losses = self.per_sample_loss(logits, batch["label"])
        weights = self.sample_weights(batch)
        return logits, losses if weights is None else losses * weights

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean of :meth:`training_losses` over the batch, synthetic images weighed where a judge has weighed them."""
        logits, losses = self.training_losses(batch)
        if "weight" in batch:
            losses = losses * batch["weight"]
        # Sums stay on the device: reading them each step would make the host wait for it.
        correct = (logits.detach().argmax(dim=1) == batch["label"]).sum()
        total = losses.detach().sum()
        self._loss_sum = total if self._loss_sum is None else self._loss_sum + total
        self._correct_sum = correct if self._correct_sum is None else self._correct_sum + correct
        self._train_count += len(losses)
        return losses.mean()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Feed the metrics of the validation set, or of a watched test set, which is the second loader."""
        metrics = self.test_metrics if dataloader_idx else self.val_metrics
        metrics.update(self(batch["image"]), batch["label"], batch["bias"], batch["index"])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Feed the metrics of the test set, or of synthetic test images, which are the second loader."""
        metrics = self.synthetic_metrics if dataloader_idx else self.test_metrics
        metrics.update(self(batch["image"]), batch["label"], batch["bias"], batch["index"])

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Index [B], label [B], logits [B, C] and probability [B, C], the latter two float32."""
        logits = self(batch["image"]).float()
        return {
            "index": batch["index"],
            "label": batch["label"],
            "logits": logits,
            "probability": logits.softmax(dim=1),
        }

    # Epochs

    def on_train_epoch_start(self) -> None:
        """Start new sums; frozen batch normalisation stays in evaluation mode."""
        self._reset_train()
        if self.hparams["freeze_bn"]:
            for layer in self.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy."""
        means = self._train_means()
        if means is not None:
            self._log({"train/loss": means[0], "train/accuracy": means[1]}, bar="train/loss")
        self._reset_train()

    def on_validation_epoch_start(self) -> None:
        """Start anew; here, before a checkpoint of it could be written, a broken epoch stops the run."""
        self.val_metrics.reset()
        self.test_metrics.reset()
        if not self.trainer.sanity_checking:
            self.train_means = self._train_means()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set; a sanity check sees too little of it."""
        if self.trainer.sanity_checking:
            return
        self._log_metrics("val", self.val_metrics, bar="val/accuracy")
        if self.test_metrics.update_called:
            self._log_metrics("watched", self.test_metrics)

    def on_test_epoch_start(self) -> None:
        """Start anew."""
        self.test_metrics.reset()
        self.synthetic_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set, and of synthetic test images if there are any."""
        self._log_metrics("test", self.test_metrics)
        if self.synthetic_metrics.update_called:
            self._log_metrics("synthetic", self.synthetic_metrics)

    def _log_metrics(self, prefix: str, metrics: GroupMetrics, bar: str = "") -> None:
        values = metrics.compute()
        group_scores = getattr(getattr(self.trainer, "datamodule", None), "group_scores", None)
        # they compare with the real training set
        if group_scores is not None and values and prefix != "synthetic":
            values |= {name: value.to(self.device) for name, value in group_scores(metrics.groups()).items()}
        self._log({f"{prefix}/{name}": value for name, value in values.items()}, bar)

    def _train_means(self) -> Tensor | None:
        """Mean loss and accuracy [2] since the epoch began, over all processes; None before the first step.

        Raises:
            TrainingError: the loss is not a finite number; all processes see the same value and stop together.
        """
        if self._loss_sum is None or self._correct_sum is None:
            return None
        count = torch.full_like(self._loss_sum, self._train_count)
        own = torch.stack((self._loss_sum, self._correct_sum.float(), count))
        sums = cast(Tensor, self.trainer.strategy.reduce(own, reduce_op="sum"))
        means = sums[:2] / sums[2]
        if not bool(means.isfinite().all()):
            raise TrainingError(
                f"the training loss became {means[0].item()} in epoch {self.current_epoch}: "
                f"set a lower model.lr (now {self.hparams['lr']:g}) or trainer.precision to 32-true."
            )
        return means

    def _reset_train(self) -> None:
        self._loss_sum = self._correct_sum = None
        self._train_count = 0

    def _log(self, values: dict[str, Tensor], bar: str = "") -> None:
        # The values are the same in every process already: the maximum over processes keeps them to the last bit.
        for name, value in values.items():
            self.log(name, value, prog_bar=name == bar, sync_dist=True, reduce_fx="max", batch_size=1)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the stage, the names of the classes, and that pretrained weights need not be fetched again."""
        super().on_save_checkpoint(checkpoint)
        if classes := self._class_names():
            checkpoint[_CLASSES_KEY] = classes
        weights = self.hparams["weights"]
        if weights is not None:
            weights = FROM_CHECKPOINT + weights.removeprefix(FROM_CHECKPOINT)
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**self.hparams, "weights": weights}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage, other classes or another network; build the network for its weights.

        Raises:
            ConfigError: the checkpoint was written by another stage, or for other classes or another network.
        """
        super().on_load_checkpoint(checkpoint)
        _compare_classes(checkpoint.get(_CLASSES_KEY, []), self._class_names())
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if self.hparams["num_classes"] is None:
            self.hparams["num_classes"] = saved.get("num_classes")
        for key in ("backbone", "num_classes", "small_images", "backbone_args"):
            if key in saved and saved[key] != self.hparams[key]:
                raise ConfigError(
                    f"the checkpoint has model.{key} {saved[key]}, but this run {self.hparams[key]}: make them agree."
                )
        self.configure_model()


def _compare_classes(known: Sequence[str], given: Sequence[str]) -> None:
    """Refuse data whose classes are not those of the checkpoint, in its order, where both name them."""
    if known and given and list(known) != list(given):
        ours, theirs = (textwrap.shorten(", ".join(names), 200, placeholder=" ...") for names in (known, given))
        raise ConfigError(
            f"the checkpoint knows the classes {ours}, but data has {theirs}: give the data it was trained on."
        )
