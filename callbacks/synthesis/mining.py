"""The mining step: measure every training image and write the selection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.checkpoints import read_checkpoint
from callbacks.synthesis.distributed import agree, on_rank_zero
from callbacks.synthesis.files import make_folder, read_json, write_json
from callbacks.synthesis.losses import Losses, write_losses
from callbacks.synthesis.manifest import SELECTION
from callbacks.synthesis.miner import Miner, check_finite, mine_losses
from callbacks.synthesis.part import check_fingerprint, digest, plain
from callbacks.synthesis.progress import Bar, Progress
from lightning_modules.distributed import assembled, rank, world_size
from lightning_modules.errors import ConfigError


class MiningData(Protocol):
    """What the synthesis asks of a data module."""

    synthetic_test: float

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the bias attributes, () where they are not labelled."""

    @property
    def aligned_bias(self) -> tuple[int, ...]:
        """The bias attribute that goes with each class."""

    def mining_dataloader(self, rank: int, world_size: int) -> DataLoader[Any]:
        """Return this rank's share of the training images, unshuffled and without augmentation."""

    def train_labels(self) -> Tensor:
        """Return the label of every training image, int64 [N]."""

    def train_biases(self) -> Tensor:
        """Return the bias attribute of every training image, int64 [N], -1 where unknown."""

    def source_image(self, index: int) -> Image.Image:
        """Return the picture of a training image as the captioner should see it."""


def write_selection(
    directory: Path,
    module: nn.Module,
    data: MiningData,
    miner: Miner,
    top_k: int,
    device: torch.device,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> list[dict[str, Any]]:
    """Mine and write ``losses.safetensors`` and ``selection.json``, or read the latter where it is there. Collective.

    Args:
        directory: The synthetic folder.
        module: The biased classifier, [B, 3, H, W] to logits [B, C].
        data: The training set.
        miner: Who chooses.
        top_k: How many, as the miner understands it.
        device: Where to compute.
        progress: How to show progress.
        checkpoint: Weights of the module's best epoch to mine with; None takes those it has.

    Returns:
        One dict an image with ``index``, ``label``, ``bias`` and ``loss`` (nats), hardest first.

    Raises:
        ConfigError: There is no such checkpoint, or other settings were mined with.
    """
    labels = data.train_labels().cpu()
    fingerprint = {
        "top_k": top_k,
        "miner": miner.settings(),
        "classes": list(data.class_names),
        "labels": digest(labels.tolist()),
        **({} if checkpoint is None else {"epoch": "best"}),
    }
    file = directory / SELECTION
    stored = on_rank_zero(lambda: _read(file, fingerprint))
    if stored is not None:
        return stored
    with weights_of(module, checkpoint):
        losses = _measure(module, data, len(labels), device, progress or Progress())

    def choose() -> list[dict[str, Any]]:
        biases = data.train_biases()
        items = [
            {
                "index": index,
                "label": int(labels[index]),
                "bias": int(biases[index]),
                "loss": round(float(losses[index]), 5),
            }
            for index in miner.select(losses, labels, top_k)
        ]
        make_folder(directory)
        measured = (losses.numpy(), labels.numpy(), biases.numpy(), np.array(data.aligned_bias))
        write_losses(directory, Losses(*measured))
        write_json(file, {"fingerprint": plain(fingerprint), "items": items})
        return items

    return on_rank_zero(choose)


@contextmanager
def weights_of(module: nn.Module, checkpoint: Path | None) -> Iterator[None]:
    """Let a fitted module have the weights of a checkpoint of its own fit for a while.

    Args:
        module: The module.
        checkpoint: The file; None leaves the module as it is.

    Raises:
        ConfigError: There is no such file.
    """
    if checkpoint is None:
        yield
        return
    if not checkpoint.is_file():
        raise ConfigError(
            f"synthesize.mine_epoch=best: there is no {checkpoint}: no epoch of that stage was validated, so set it to "
            "last"
        )
    own = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    try:
        yield
    finally:
        module.load_state_dict(own)


def precision(items: list[dict[str, Any]], aligned_bias: Sequence[int]) -> float | None:
    """Return the share of bias-conflicting images in the selection, None where no bias label is known.

    Args:
        items: The selection, with the ``label`` and ``bias`` of each image.
        aligned_bias: The bias attribute that goes with each class.
    """
    known = [item for item in items if item["bias"] >= 0]
    return sum(item["bias"] != aligned_bias[item["label"]] for item in known) / len(known) if known else None


def _measure(module: nn.Module, data: MiningData, count: int, device: torch.device, progress: Progress) -> Tensor:
    """Return the loss of every training image [N], each rank measuring its share."""
    parameter = next(module.parameters(), None)
    home = parameter.device if parameter is not None else device
    module.to(device)
    try:
        with progress.bar("mining", count, "images") as bar:
            own, indices = agree(lambda: mine_losses(module, _Counted(data, bar), device))
    finally:
        # The captioner needs the room.
        module.to(home)
    losses = assembled(indices, own, count)
    check_finite(losses)
    return losses


class _Counted:
    """The mining loader of this rank, moving the bar for all ranks."""

    def __init__(self, data: MiningData, bar: Bar) -> None:
        self.data, self.bar = data, bar

    def __iter__(self) -> Any:
        for batch in self.data.mining_dataloader(rank(), world_size()):
            yield batch
            self.bar.add(len(batch["label"]) * world_size())


def _read(file: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]] | None:
    if not file.is_file():
        return None
    stored = read_json(file)
    check_fingerprint(file, stored.get("fingerprint"), fingerprint, f"delete the folder {file.parent} to mine anew")
    items: list[dict[str, Any]] = stored["items"]
    return items
