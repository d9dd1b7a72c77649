"""Dogs & Cats: pets, where the cats are mostly dark and the dogs mostly bright."""

import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmark import Benchmark
from datamodules.images import ImageFiles
from datamodules.release import Release, find_release
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

CLASSES = ("cat", "dog")
COLOURS = ("dark", "bright")
LISTS = ("list_dark.txt", "list_bright.txt")
IMAGES = "https://www.kaggle.com/c/dogs-vs-cats"
LABELS = "https://github.com/feidfoe/learning-not-to-learn"
RELEASE = "https://github.com/kakaoenterprise/BiasEnsemble"
REMEDY = f"get the images from {IMAGES} with the lists of {LABELS}, or the re-split linked from {RELEASE}"
PET = re.compile(r"((cat|dog)\.\d+)(\.\w+)?")

GROUPS = ((0, 0), (0, 1), (1, 0), (1, 1))
# images of each group [class, colour] in the two lists
LISTED = np.array([[4748, 3086], [3652, 5299]])
# aligned images of each class: 80 % for training, 8,037 in all as published; what the test set leaves for validation
ALIGNED: dict[Split, tuple[int, int]] = {"train": (3798, 4239), "val": (450, 560)}
# published conflict images for 8,037 aligned ones
RATIOS = {"1pct": 80 / 8037, "5pct": 452 / 8037}
# test images of each group: 1,000 in conflict as published, and as many aligned ones
TEST = 500
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class DogsAndCats(Benchmark):
    """Dogs & Cats (Kim et al., Learning Not to Learn, CVPR 2019): the pet is the class, its brightness the bias.

    Dark cats and bright dogs are aligned. Three layouts are found out from the files, each a folder or a zip. The
    re-split of BiasEnsemble (Lee et al., AAAI 2023), linked from https://github.com/kakaoenterprise/BiasEnsemble, on
    which DiffuBias' figures are::

        root/dogs_and_cats/{1pct,5pct}/{align,conflict}/<label>/<name>_<label>_<bias>.jpg
                                      /valid/<name>_<label>_<bias>.jpg
        root/dogs_and_cats/test/<label>/<name>_<label>_<bias>.jpg     (or all without the folder dogs_and_cats)

    The images of https://www.kaggle.com/c/dogs-vs-cats with list_bright.txt and list_dark.txt of
    https://github.com/feidfoe/learning-not-to-learn (one file name a line), or sorted by these lists::

        root/train/cat.0.jpg ... dog.12499.jpg      root/bright/cat.0.jpg  dog.3.jpg ...
        root/list_bright.txt                        root/dark/cat.1.jpg    dog.5.jpg ...
        root/list_dark.txt

    Of these a split by seed is made with the published numbers: 8,037 aligned training images with 80 or 452 in
    conflict, and 1,000 test images in conflict. Who is in it is ours, so compare with care. The published test set
    holds conflict images only: the metric `conflict` is the one to compare; 1,000 aligned test images are added to tell
    the others. The 1,010 aligned images that remain are the validation set, with as large a share of conflict as in
    training. Where a group has fewer images than in the lists, all numbers shrink alike.

    The order of the classes (cat 0, dog 1) is ours: the release does not document its own.

    Args:
        root: The folder or zip file, as above.
        percent: Share of bias-conflict training images.
        lists: The folder of the two lists; when not given, the root, or the folder of the zip.
        cache: Keep decoded pictures in memory: at 224 pixels 1.7 GB for the whole set.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = REMEDY

    def __init__(
        self,
        root: Path,
        *,
        percent: Literal["1pct", "5pct"] = "1pct",
        lists: Path | None = None,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, cache=cache, **kwargs)
        self.percent = percent
        self.lists = None if lists is None else Path(lists).expanduser()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The two pets."""
        return CLASSES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """The two kinds of colour; dark goes with cat, bright with dog."""
        return COLOURS

    @cached_property
    def _release(self) -> Release | None:
        return find_release(self.root, "dogs_and_cats", self.percent, CLASSES)

    def load(self, split: Split) -> Samples | None:
        """Lists one split; the pictures are decoded later."""
        return self._build(split) if self._release is None else self._release.load(split)

    @cached_property
    def _groups(self) -> dict[tuple[int, int], list[str]]:
        """The images of each (class, colour), sorted by name."""
        names = [name for name in self.container.names([""]) if _pet(name)]
        in_folders = [name for name in names if PurePosixPath(name).parent.name in COLOURS]
        names = in_folders or names
        found: dict[str, str] = {}
        for name in names:
            twin = found.setdefault(_pet(name), name)
            if twin is not name:
                raise ConfigError(f"data.root: {self.root} holds the same image as {twin} and as {name}; delete one")
        if in_folders:
            colours = {pet: COLOURS.index(PurePosixPath(name).parent.name) for pet, name in found.items()}
        else:
            colours = self._listed()
        missing = [pet for pet in colours if pet not in found]
        if missing:
            raise self.unusable(f"lacks {len(missing)} images of {' and '.join(LISTS)}, the first is {missing[0]}")
        groups: dict[tuple[int, int], list[str]] = {group: [] for group in GROUPS}
        for pet, name in found.items():
            if pet in colours:
                groups[CLASSES.index(pet.split(".")[0]), colours[pet]].append(name)
        return groups

    def _listed(self) -> dict[str, int]:
        folder = self.lists or (self.root if self.root.is_dir() else self.root.parent)
        colours: dict[str, int] = {}
        for colour, path in enumerate(folder / name for name in LISTS):
            if not path.is_file():
                raise ConfigError(
                    f"data.root: {self.root} has neither a share (1pct, 5pct) nor the folders bright and dark, and "
                    f"there is no {path}; {REMEDY}"
                )
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                pet = _pet(line)
                if not line.strip():
                    continue
                if not pet:
                    raise ConfigError(
                        f"{path}: {line!r} is no file name such as cat.12.jpg; get the list from {LABELS}"
                    )
                if colours.setdefault(pet, colour) != colour:
                    raise ConfigError(f"{path}: {line} is in both lists; get them from {LABELS}")
        return colours

    def _build(self, split: Split) -> Samples:
        names: list[str] = []
        groups: list[tuple[int, int]] = []
        counts = {part: self._counts(part) for part in SPLITS}
        for (label, colour), group in self._groups.items():
            order = np.random.default_rng([self.seed, label, colour]).permutation(len(group))
            # from both ends, so that neither the test nor the validation images depend on the share
            first, length = int(counts["test"][label, colour]), int(counts[split][label, colour])
            start = {"test": 0, "train": first, "val": len(group) - length}[split]
            chosen = np.sort(order[start : start + length]).tolist()
            names += [group[position] for position in chosen]
            groups += [(label, colour)] * length
        labels, biases = np.array(groups, dtype=np.int64).T.copy()
        return Samples(ImageFiles(self.container, names), labels, biases)

    def _counts(self, split: Split) -> NDArray[np.int64]:
        """How many images of each class and colour a split has, int64 [2, 2]."""
        sizes = np.array([len(self._groups[group]) for group in GROUPS]).reshape(2, 2)
        scale = min(1.0, float((sizes / LISTED).min()))
        if split == "test":
            counts = np.full((2, 2), int(TEST * scale))
        else:
            aligned = [int(count * scale) for count in ALIGNED[split]]
            conflict = [round(count * RATIOS[self.percent]) for count in aligned]
            counts = np.array([[aligned[0], conflict[0]], [conflict[1], aligned[1]]])
        if not counts.diagonal().all() or (split == "train" and counts.trace() == counts.sum()):
            raise ConfigError(
                f"data.percent={self.percent}: {self.root} has too few images for it ({sizes[0, 0]} dark and "
                f"{sizes[0, 1]} bright cats, {sizes[1, 0]} dark and {sizes[1, 1]} bright dogs); add images"
            )
        return counts


def _pet(name: str) -> str:
    """The key `cat.12` of a file name such as train/cat.12.jpg; "" for other files."""
    match = PET.fullmatch(PurePosixPath(name.strip()).name)
    return "" if match is None else match[1]
