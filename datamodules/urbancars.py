"""UrbanCars: cars whose background and whose neighbouring object both give them away."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.benchmark import Benchmark, Group, compare_counts
from datamodules.samples import Samples, Split
from lightning_modules.metrics import GroupTable

KINDS = ("urban", "country")
# background and co-occurring object of the four pairs, numbered so that pair i suits class i on both counts
BACKGROUND = (0, 1, 0, 1)
OBJECT = (0, 1, 1, 0)
PAIRS = tuple(
    f"{KINDS[background]} background, {KINDS[thing]} object"
    for background, thing in zip(BACKGROUND, OBJECT, strict=True)
)
GROUPS: tuple[Group, ...] = tuple((label, pair) for label in range(2) for pair in range(4))
FOLDERS: dict[Split, str] = {
    "train": "bg-0.95_co_occur_obj-0.95/train/",
    "val": "bg-0.5_co_occur_obj-0.5/val/",
    "test": "bg-0.5_co_occur_obj-0.5/test/",
}
# shares of the training set by (background aligned, object aligned), and images of a class that they make
SHARES = {(True, True): 0.9025, (True, False): 0.0475, (False, True): 0.0475, (False, False): 0.0025}
TRAIN_COUNTS = {(True, True): 3610, (True, False): 190, (False, True): 190, (False, False): 10}
EVALUATED_COUNT = 125


class UrbanCars(Benchmark):
    """UrbanCars (Li et al., A Whac-A-Mole Dilemma, CVPR 2023), with two biases at once.

    It is made, not downloaded: by the scripts of https://github.com/facebookresearch/Whac-A-Mole, out of Stanford Cars,
    Places and LVIS (root may be the folder around urbancars or the folder itself; mask files beside the images are not
    read)::

        root/urbancars/bg-0.95_co_occur_obj-0.95/train/obj-<c>_bg-<c>_co_occur_obj-<c>/<number>.jpg
        root/urbancars/bg-0.5_co_occur_obj-0.5/{val,test}/obj-<c>_bg-<c>_co_occur_obj-<c>/<number>.jpg

    where every <c> is urban or country. In training the background and the object each go with the class in 95 % of the
    images, independently; in validation and test in half of them.

    With `bias=both` the bias attributes are 0 both urban, 1 both country, 2 urban background with country object, 3
    country background with urban object: an image is aligned when both suit its class. Only then the metrics of the
    paper are logged, by the accuracy of the cells (background aligned?, object aligned?), each the mean of its two
    groups: `id_accuracy`, the cells weighted by their training shares 0.9025, 0.0475, 0.0475, 0.0025; and how much
    lower (negative is worse) the accuracy is where a bias is in conflict: `bg_gap`, `co_occur_obj_gap`, `both_gap`.

    The images have 256 pixels, which the authors' code keeps. The whole set takes 2 GB with `cache=True` at that size.

    Args:
        root: The folder urbancars, or the one that holds it.
        bias: What the bias attribute of an image is: both, its background or its co-occurring object.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = (
        "make UrbanCars with the scripts of https://github.com/facebookresearch/Whac-A-Mole and give its folder"
    )

    def __init__(self, root: Path, *, bias: Literal["both", "background", "object"] = "both", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.bias = bias

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of cars."""
        return ("urban car", "country car")

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Pairs of background and object, or kinds of one of them; attribute i goes with car i."""
        return PAIRS if self.bias == "both" else tuple(f"{kind} {self.bias}" for kind in KINDS)

    @cached_property
    def _prefix(self) -> str:
        return self.locate(FOLDERS["train"].split("/")[0] + "/", "", "urbancars/")

    def load(self, split: Split) -> Samples:
        """Lists one split; the pictures are decoded later."""
        folders = {self._prefix + FOLDERS[split] + _folder(*group): group for group in GROUPS}
        # the scripts leave masks as .png beside the images
        samples = self.group_samples(folders, suffixes=(".jpg",))
        official = {group: TRAIN_COUNTS[_cell(*group)] if split == "train" else EVALUATED_COUNT for group in GROUPS}
        compare_counts(f"the {split} split of UrbanCars", samples.labels, samples.biases, official)
        if self.bias == "both":
            return samples
        attribute = np.array(BACKGROUND if self.bias == "background" else OBJECT, dtype=np.int64)
        return Samples(samples.images, samples.labels, attribute[samples.biases])

    def group_scores(self, table: GroupTable) -> dict[str, Tensor]:
        """The metrics of the paper beside those of every data set, where all four cells have images.

        Args:
            table: Counts of the groups.

        Returns:
            `id_accuracy` in [0, 1] and `bg_gap`, `co_occur_obj_gap`, `both_gap` in [-1, 1], see the class.
        """
        scores = super().group_scores(table)
        if self.bias != "both":
            return scores
        filled = table.count > 0
        cells = [_cell(label, pair) for label, pair in zip(table.label.tolist(), table.bias.tolist(), strict=True)]
        rows = {cell: torch.tensor([cell == other for other in cells]) & filled for cell in SHARES}
        if not all(bool(chosen.any()) for chosen in rows.values()):
            return scores
        accuracy = {cell: table.accuracy[chosen].mean() for cell, chosen in rows.items()}
        usual = torch.stack([share * accuracy[cell] for cell, share in SHARES.items()]).sum()
        return scores | {
            "id_accuracy": usual,
            "bg_gap": accuracy[False, True] - usual,
            "co_occur_obj_gap": accuracy[True, False] - usual,
            "both_gap": accuracy[False, False] - usual,
        }


def _cell(label: int, pair: int) -> tuple[bool, bool]:
    """Whether background and object of a pair go with the class."""
    return BACKGROUND[pair] == label, OBJECT[pair] == label


def _folder(label: int, pair: int) -> str:
    return f"obj-{KINDS[label]}_bg-{KINDS[BACKGROUND[pair]]}_co_occur_obj-{KINDS[OBJECT[pair]]}/"
