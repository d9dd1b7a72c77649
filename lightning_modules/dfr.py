"""Deep feature reweighting: a new last layer for a trained network."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import Optimizer
from tqdm import tqdm

from .backbones import find_head
from .classifier import Batch, Classifier
from .distributed import assembled, rank, world_size
from .errors import ConfigError
from .last_layer import Floats, Integers, averaged_fit, best_c, fold, standard_deviation

_log = logging.getLogger("diffubias")


class DFR(Classifier):
    """Deep feature reweighting (Kirichenko et al., arXiv 2204.02937) of the network of an earlier stage.

    The last layer is fitted anew, all others stay as they are: logistic regression with an L1 penalty on standardised
    features of the **validation** set, from which equally many images of every group (label, bias) are taken. The
    penalty is chosen by the worst group on half of that set; then several fits are averaged, each to another such
    subset. The standardisation, that of the real training images, is folded into the layer.

    A stage of it has ``init_from: erm``, and one epoch whatever ``max_epochs`` says. Its one step is the fit; the
    validation values that follow are those of the images that it was fitted to. Where there are several processes the
    first fits for all.
    """

    def __init__(
        self,
        c_values: Sequence[float] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        refits: int = 20,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; the network is built later.

        Args:
            c_values: inverse strengths of the penalty to choose from, greater than 0; the first of the best is taken.
                From Fake to Real (arXiv 2308.04553) has 3, 1, 0.3, 0.1, 0.03, 0.01 and 0.003.
            refits: how many fits are averaged.
            normalize: scale the features to unit length first, as From Fake to Real does.
            **kwargs: see :class:`Classifier`.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if not c_values or min(c_values) <= 0:
            raise ConfigError(
                f"model.c_values must be greater than 0, but are {[*c_values]}: set them to [1, 0.1], say."
            )
        if refits < 1:
            raise ConfigError(f"model.refits must be at least 1, but is {refits}: set it to 20, say.")
        super().__init__(**kwargs)

    def new_network(self) -> nn.Module:
        """A new network, whose last layer is given features of unit length if the settings say so."""
        network = super().new_network()
        if self.hparams["normalize"]:
            _head(network, self.num_classes).register_forward_pre_hook(_unit_length)
        return network

    def check(self, data: Any) -> None:
        """Try the network once.

        Raises:
            ConfigError: see :class:`Classifier`, or it has no linear last layer.
        """
        super().check(data)
        _head(self._built(), self.num_classes)

    def check_fit(self, data: Any) -> None:
        """Refuse data and helpers that this module cannot be fitted with.

        Raises:
            ConfigError: see :class:`Classifier`, or the data have no bias labels.
        """
        super().check_fit(data)
        if not data.has_bias:
            raise _unlabelled(data)

    # The one step

    def on_fit_start(self) -> None:
        """Make the fit one epoch of one batch long, with a validation after it."""
        self.trainer.fit_loop.max_epochs = 1
        self.trainer.limit_train_batches = self.trainer.check_val_every_n_epoch = 1
        self.trainer.log_every_n_steps = 1  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss before the fit; Lightning wants one, and nothing follows its gradient."""
        self.eval()  # batch normalisation keeps its statistics
        return self.training_losses(batch)[1].mean()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Fit the last layer, in place of a step along the gradient.

        Raises:
            ConfigError: the validation set has no bias labels, or lacks a class.
        """
        assert optimizer_closure is not None
        optimizer_closure()
        optimizer.zero_grad()
        features, labels, biases = self._validation_set()
        mean, scale = self._standardisation()
        layer: tuple[Floats, Floats] | None = None
        if self.trainer.is_global_zero:
            random = np.random.default_rng(int(torch.randint(2**31, ())))
            layer = self._fitted(features, labels, biases, mean, scale, random)
        layer = self.trainer.strategy.broadcast(layer)
        assert layer is not None
        head = _head(self._built(), self.num_classes)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(layer[0]))
            head.bias.copy_(torch.from_numpy(layer[1]))

    def _fitted(
        self,
        features: Floats,
        labels: Integers,
        biases: Integers,
        mean: Floats,
        scale: Floats,
        random: np.random.Generator,
    ) -> tuple[Floats, Floats]:
        """Weight [C, D] and bias [C] of the new layer."""
        groups = labels * (biases.max() + 1) + biases
        sizes = np.bincount(groups)
        c, worst = best_c(features, labels, groups, self.hparams["c_values"], self.num_classes, random)
        _log.info(
            f"last layer fitted to {sizes[sizes > 0].min()} validation images of each of {(sizes > 0).sum()} groups"
            f" with C = {c:g}, whose fit to half of them gets {100 * worst:.1f} % of the worst group of the rest right"
        )
        standardised = (features - mean) / scale
        refits = self.hparams["refits"]
        return fold(*averaged_fit(standardised, labels, groups, c, self.num_classes, refits, random), mean, scale)

    # Features

    @torch.inference_mode()
    def _seen(self, batch: Batch) -> Floats:
        """What the last layer is given [B, D], of the images of a batch."""
        with torch.autocast(self.device.type, enabled=False):
            image = move_data_to_device(batch["image"], self.device)
            features = self.features(image.to(next(self.parameters()).dtype))
        return np.asarray(features.cpu().double())

    def _shown(self, loader: Iterable[Batch], text: str) -> Iterable[Batch]:
        hidden = not self.trainer.is_global_zero or self.trainer.progress_bar_callback is None
        return cast(Iterable[Batch], tqdm(loader, desc=text, unit="batch", leave=False, disable=hidden))

    def _validation_set(self) -> tuple[Floats, Integers, Integers]:
        """Features [N, D], labels and biases [N] of the validation images with a known bias, all in every process."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        loader = data.val_dataloader()
        batches = self._shown(loader[0] if isinstance(loader, list) else loader, "validation features")
        rows = [(self._seen(batch), batch["label"].numpy(), batch["bias"].numpy()) for batch in batches]
        features, labels, biases = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        known = biases >= 0
        if not known.any():
            raise _unlabelled(data)
        missing = [name for label, name in enumerate(data.class_names) if label not in labels[known]]
        if missing:
            raise ConfigError(
                f"DFR needs images of all classes in the validation set, which has none of {', '.join(missing)} with a "
                "known bias: enlarge it, as by data.val_fraction."
            )
        return features[known], labels[known], biases[known]

    def _standardisation(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation [D] of the features of the real training images, without augmentation."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sums = np.zeros(())
        for batch in self._shown(data.mining_dataloader(rank(), world_size()), "training features"):
            features = self._seen(batch)
            sums = sums + np.stack([features.sum(axis=0), (features**2).sum(axis=0)])
        parts = assembled(torch.tensor([rank()]), torch.from_numpy(sums)[None], world_size())
        mean, square = parts.sum(dim=0).numpy() / len(data.train_labels())
        return mean, standard_deviation(square - mean**2, mean)


def _unlabelled(data: Any) -> ConfigError:
    return ConfigError(
        f"DFR needs bias labels of validation images, and those of {type(data).__name__} have none: take JTT or LfF, "
        "or another data module."
    )


def _head(network: nn.Module, num_classes: int) -> nn.Linear:
    _, head = find_head(network, num_classes)
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"backbone {type(network).__name__} has no linear last layer: choose another for DFR.")
    return head


def _unit_length(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (F.normalize(inputs[0], dim=1),)
