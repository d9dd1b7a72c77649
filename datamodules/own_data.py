"""What the data modules for a user's own images share: names become numbers, missing splits are held out."""

import logging
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from datamodules.augment import IMAGENET_MEAN, IMAGENET_STD
from datamodules.checking import SPLITS, CheckedDataModule
from datamodules.dataset import Part
from datamodules.images import ImageFiles
from datamodules.samples import Samples, Split, carve
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

# how people call the three splits
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# how tables write that a value is missing
MISSING = ("nan", "na", "n/a", "none", "null")
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
MANY = 20  # classes beyond which the log gives their number alone
MEMORY = 2_000_000_000  # bytes of decoded pictures that are kept without being asked


@dataclass(frozen=True)
class Listing:
    """All images of a data set under the names that the user gave; position i of every field belongs to image i.

    Attributes:
        images: The files.
        labels: Name of the class.
        biases: Name of the bias attribute, "" where unknown.
        splits: Where each image belongs; a split that no image has is carved out of `train`.
        texts: What describes the image, "" where nothing does; None where no image has a text.
    """

    images: ImageFiles
    labels: Sequence[str]
    biases: Sequence[str]
    splits: Sequence[Split]
    texts: Sequence[str] | None = None


def one_form(name: str) -> str:
    """Returns a name in Unicode's composed form: macOS and Linux write the same accented letter differently."""
    return unicodedata.normalize("NFC", name)


def naturally(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the different names in the order that people expect: numbers by value, so that 2 comes before 10."""
    different = set(names)
    if all(NUMBER.fullmatch(name) for name in different):  # with signs and decimals
        return tuple(sorted(different, key=lambda name: (float(name), name)))

    def key(name: str) -> tuple[list[str | int], str]:
        return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name

    return tuple(sorted(different, key=key))


@rank_zero_only
def warn(message: str) -> None:
    """Logs a warning, in one process only."""
    log.warning(message)


class OwnData(CheckedDataModule):
    """Base of `Folder` and `Table`: a subclass lists the images, the rest is here.

    Bias labels are optional and may be known of some images only. Which bias attribute goes with a class is counted:
    the one whose share among the training images of the class most exceeds its share among all of them.

    Args:
        test_fraction: Share of the training images that becomes the test set when the data have none; drawn by `seed`,
            stratified by class and, where known, by bias.
        aligned: The bias attribute that goes with a class, by their names, for classes where it should not be counted.
        image_size: Side of the input, in pixels.
        mean: Mean of each channel (ImageNet's).
        std: Standard deviation of each channel (ImageNet's).
        num_workers: Loader processes.
        cache: Keep decoded pictures in memory, in every training process; when not given, if all of them take less
            than 2 GB.
        **kwargs: Arguments of `CheckedDataModule`.
    """

    LABELS: ClassVar[str] = "the class"
    """What names the classes, for messages."""

    def __init__(
        self,
        *,
        test_fraction: float = 0.2,
        aligned: dict[str | int, str | int] | None = None,
        image_size: int = 224,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        num_workers: int = 2,
        cache: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_size=image_size, mean=mean, std=std, num_workers=num_workers, cache=bool(cache), **kwargs
        )
        if not 0 < test_fraction < 1:
            raise ConfigError(f"data.test_fraction={test_fraction} must lie between 0 and 1")
        self.test_fraction = test_fraction
        self.aligned = {one_form(str(name)): one_form(str(bias)) for name, bias in (aligned or {}).items()}
        self._cache_if_small = cache is None

    @abstractmethod
    def read_listing(self) -> Listing:
        """Lists all images."""

    @cached_property
    def _listing(self) -> Listing:
        listing = self.read_listing()
        if "train" not in listing.splits:
            raise ConfigError(f"{self.KEY}: there is no training image; give images to the split train")
        return listing

    @cached_property
    def _found_classes(self) -> tuple[str, ...]:
        pairs = zip(self._listing.labels, self._listing.splits, strict=True)
        return naturally(label for label, split in pairs if split == "train")

    @cached_property
    def _found_biases(self) -> tuple[str, ...]:
        return naturally(bias for bias in self._listing.biases if bias)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that training images have, sorted, numbers by value."""
        return self._found_classes

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the bias attributes of all splits, sorted, numbers by value; () without bias labels."""
        return self._found_biases

    @property
    def aligned_bias(self) -> tuple[int, ...]:
        """The bias attribute that is over-represented in each class, or the one that `data.aligned` names."""
        return self._aligned if self.has_bias else super().aligned_bias

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        listing = self._listing
        number = {name: i for i, name in enumerate(self.class_names)}
        if len(number) < 2:
            raise ConfigError(
                f"{self.KEY}: the only class is {self.class_names[0]!r}; give images of at least two classes"
            )
        for position, label in enumerate(listing.labels):
            if label not in number:
                raise ConfigError(
                    f"{self.KEY}: {listing.images.where(position)} of the {listing.splits[position]} split is of class "
                    f"{label!r}, which no training image has; move it away or add training images"
                )
        return np.array([number[label] for label in listing.labels], dtype=np.int64)

    @cached_property
    def _biases(self) -> NDArray[np.int64]:
        number = {name: i for i, name in enumerate(self.bias_names)}
        biases = np.array([number.get(bias, -1) for bias in self._listing.biases], dtype=np.int64)
        known = int((biases >= 0).sum())
        if 2 * len(set(self._listing.biases) - {""}) > known > 0:
            raise ConfigError(
                f"{self.KEY}: {known} images have {len(number)} different bias attributes (such as "
                f"{', '.join(map(repr, self.bias_names[:3]))}); a bias is shared by many images, name another field"
            )
        return biases

    @cached_property
    def _positions(self) -> dict[Split, NDArray[np.int64]]:
        """Which images each split has."""
        splits = np.array(self._listing.splits)
        positions = {split: np.flatnonzero(splits == split) for split in SPLITS}
        groups = self._labels * (len(self.bias_names) + 1) + self._biases + 1
        # the test set first: val_fraction is a share of what remains for training, as for every data set
        wanting: tuple[tuple[Split, float], ...] = (("test", self.test_fraction), ("val", self.val_fraction))
        for split, fraction in wanting:
            if len(positions[split]):
                continue
            train = positions["train"]
            inside, held_out = carve(groups[train], fraction, self.seed)
            if not len(held_out):
                raise self._too_few(split)
            positions["train"], positions[split] = train[inside], train[held_out]
            log.info("no %s split: %d of the %d training images are held out for it", split, len(held_out), len(train))
        self._refuse_empty(self._labels[positions["train"]])
        self._tell_classes(positions)
        return positions

    def _too_few(self, split: Split) -> ConfigError:
        classes, images = self.num_classes, len(self._labels)
        why = f": {self.LABELS} has {classes} different values for {images} images" if 2 * classes >= images else ""
        return ConfigError(f"{self.KEY}: there are too few images to hold out a {split} split{why}; add some")

    def _tell_classes(self, positions: dict[Split, NDArray[np.int64]]) -> None:
        """Logs the classes that were found, and which of them look like a mistake."""
        names = self.class_names
        counts = [np.bincount(self._labels[positions[split]], minlength=len(names)) for split in SPLITS]
        rows = [f"{name} {' + '.join(map(str, row))}" for name, *row in zip(names, *counts, strict=True)]
        few = f"{', '.join(rows)} (training + validation + test images)"
        log.info("classes: %s", few if len(names) <= MANY else len(names))
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault(name.casefold(), []).append(name)
            if name.casefold() in MISSING:
                warn(f"{self.KEY}: the class {name} reads like a missing label; delete its images if it is none")
        for name in self.bias_names:
            if name.casefold() in MISSING:
                warn(f"{self.KEY}: the bias {name} reads like a missing one; leave it empty where it is not known")
        for group in alike.values():
            if len(group) > 1:
                warn(
                    f"{self.KEY}: the classes {', '.join(group)} differ in case only; if they are one, write them alike"
                )

    @cached_property
    def _aligned(self) -> tuple[int, ...]:
        classes, attributes = self.class_names, self.bias_names
        unknown = [*(self.aligned.keys() - set(classes)), *(set(self.aligned.values()) - set(attributes))]
        if unknown:
            raise ConfigError(
                f"data.aligned: there is no {unknown[0]!r}; give class: bias, the classes are {', '.join(classes)} and "
                f"the biases {', '.join(attributes)}"
            )
        train = self._positions["train"]
        train = train[self._biases[train] >= 0]
        counts = np.zeros((len(classes), len(attributes)))
        np.add.at(counts, (self._labels[train], self._biases[train]), 1)
        chosen, balanced = [], []
        for name, row in zip(classes, counts, strict=True):
            if name in self.aligned:
                chosen.append(attributes.index(self.aligned[name]))
                continue
            if not row.sum():
                raise ConfigError(
                    f"data.aligned: the bias that goes with class {name!r} cannot be counted, no training image of it "
                    f"has a known bias; give data.aligned.{name}"
                )
            # rounded: shares that are equal differ by the last bit
            excess = (row / row.sum() - counts.sum(axis=0) / counts.sum()).round(9)
            chosen.append(int(np.argmax(excess)))
            if excess.max() <= 0:
                balanced.append(name)
        pairs = ", ".join(f"{name} - {attributes[bias]}" for name, bias in zip(classes, chosen, strict=True))
        log.info("bias-aligned are: %s (data.aligned changes it)", pairs)
        if balanced:
            log.info("aligned and conflict say nothing of %s: no bias is over-represented there", ", ".join(balanced))
        return tuple(chosen)

    def load(self, split: Split) -> Samples:
        """Lists one split; the pictures are decoded later."""
        listing = self._listing
        texts = None if listing.texts is None else [[text] if text else [] for text in listing.texts]
        return Samples(listing.images, self._labels, self._biases, texts).select(self._positions[split])

    def setup(self, stage: str | None = None) -> None:
        """Reads the splits that a trainer needs, for training all of them, and checks their files."""
        if self.aligned and not self.has_bias:
            raise ConfigError(
                f"data.aligned: there are no bias labels in {self.KEY}; leave it out or name where they are"
            )
        _ = self.aligned_bias
        super().setup(stage)

    def _part(self, split: Split) -> Part:
        if self._cache_if_small and split not in self._parts:
            self.cache = len(self._listing.labels) * self.image_size**2 * 3 < MEMORY
        return super()._part(split)
