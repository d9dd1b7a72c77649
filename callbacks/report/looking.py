"""Where the biased and the debiased classifier look, on the same test images."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.report.grad_cam import grad_cam, overlay
from callbacks.report.missing import NothingToShowError
from callbacks.report.opened import OpenedRun
from callbacks.report.pictures import thumbnail
from callbacks.report.reading import RunRecord, need_classifiers

SHOWN = 12  # images; every class has its turn


@dataclass(frozen=True)
class Look:
    """What one classifier makes of an image.

    Attributes:
        picture: The image under the map, as a data URI.
        predicted: Name of the predicted class.
        right: Whether that is the class of the image.
    """

    picture: str
    predicted: str
    right: bool


@dataclass(frozen=True)
class Looked:
    """One test image.

    Attributes:
        picture: A data URI.
        label: Name of its class.
        bias: Name of its bias attribute, "" where unknown.
        looks: One for each stage.
    """

    picture: str
    label: str
    bias: str
    looks: list[Look]


@dataclass(frozen=True)
class Looking:
    """Test images and where classifiers look.

    Attributes:
        stages: Names of the classifiers.
        images: The test images.
        conflicting: Whether they are known to contradict the bias.
    """

    stages: list[str]
    images: list[Looked]
    conflicting: bool


def looking(record: RunRecord, opened: OpenedRun | None) -> Looking:
    """Show test images and where the first and the last classifier look.

    Args:
        record: The run.
        opened: Its data and models.

    Raises:
        NothingToShowError: Data or models are not at hand, or the network has no map.
        ConfigError: They cannot be read.
    """
    if opened is None:
        raise NothingToShowError("The data are not at hand.")
    stages = [stage.name for stage in need_classifiers(record)]
    rows, conflicting = _choose(opened)
    batches = list(opened.data.chosen_dataloader("test", rows))
    images = torch.cat([batch["image"] for batch in batches])
    labels, biases = (torch.cat([batch[key] for batch in batches]).tolist() for key in ("label", "bias"))
    pixels = _pixels(images, opened)
    names, classes = opened.data.bias_names, opened.data.class_names
    columns = [_look(stage, images, pixels, labels, opened) for stage in stages]
    looked = [
        Looked(
            thumbnail(Image.fromarray(pixels[row])),
            classes[label],
            names[bias] if 0 <= bias < len(names) else "",
            [column[row] for column in columns],
        )
        for row, (label, bias) in enumerate(zip(labels, biases, strict=True))
    ]
    return Looking(stages, looked, conflicting)


def _choose(opened: OpenedRun) -> tuple[list[int], bool]:
    """Rows of the test set, drawn at random so that no classifier is favoured, the classes in turn."""
    labels, biases = (own.numpy() for own in opened.data.split_labels("test"))
    conflict = (biases >= 0) & (biases != np.array(opened.data.aligned_bias)[labels])
    pool = np.flatnonzero(conflict) if conflict.any() else np.arange(len(labels))
    order = np.random.default_rng(2).permutation(pool)
    turns = {label: order[labels[order] == label] for label in np.unique(labels[order])}
    rows = [int(own[turn]) for turn in range(SHOWN) for own in turns.values() if turn < len(own)]
    return rows[:SHOWN], bool(conflict.any())


def _pixels(images: Tensor, opened: OpenedRun) -> NDArray[np.uint8]:
    """Undo the normalisation: uint8 [B, H, W, 3]."""
    mean, std = (torch.tensor(own).view(3, 1, 1) for own in (opened.data.mean, opened.data.std))
    shown = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).numpy())


def _look(stage: str, images: Tensor, pixels: NDArray[np.uint8], labels: list[int], opened: OpenedRun) -> list[Look]:
    module = opened.classifier(stage)
    maps, predicted = grad_cam(module, images.to(opened.device))
    return [
        Look(
            thumbnail(Image.fromarray(overlay(pixels[row], maps[row]))),
            opened.data.class_names[found],
            found == labels[row],
        )
        for row, found in enumerate(predicted.tolist())
    ]
