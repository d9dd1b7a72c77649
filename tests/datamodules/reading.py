"""Reads what data modules give."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from datamodules import DebiasDataModule, Samples
from datamodules.images import ImageFiles
from datamodules.samples import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def everything(loader: Any, key: str) -> Tensor:
    """One entry of all batches of a loader, put together."""
    return torch.cat([batch[key] for batch in loader])


def groups(data: DebiasDataModule, split: Split) -> Counter[tuple[int, int]]:
    """Images of every group (label, bias) of a split, through its loader."""
    loaders: dict[Split, Any] = {
        "train": data.train_dataloader,
        "val": data.val_dataloader,
        "test": data.test_dataloader,
    }
    group: dict[int, tuple[int, int]] = {}  # by index, for a training loader repeats an image to fill its last batch
    for batch in loaders[split]():
        columns = (batch[key].tolist() for key in ("index", "label", "bias"))
        group |= {index: (label, bias) for index, label, bias in zip(*columns, strict=True)}
    return Counter(group.values())


def names(samples: Samples | None) -> list[str]:
    """Names of the files of a split, inside the container."""
    assert samples is not None
    assert isinstance(samples.images, ImageFiles)
    return list(samples.images.names)
