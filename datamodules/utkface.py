"""UTKFace: the gender of a face, where age or race gives it away."""

import hashlib
import logging
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmark import Benchmark, compare_counts
from datamodules.bias_ratio import check_bias_ratio, thin_conflicts
from datamodules.images import ImageFiles
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

Attribute = Literal["gender", "age", "race"]
# value 0 and value 1 of every attribute; value i of the bias goes with value i of the target
VALUES: dict[Attribute, tuple[str, str]] = {
    "gender": ("male", "female"),
    "age": ("young", "old"),
    "race": ("White", "other than White"),
}
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_[^/]+")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# parts of train, val and test; of young men and old women the released splits have exactly these counts
SHARES = (8, 1, 1)
RELEASED_SHARES = {(0, 0): (934, 119, 103), (1, 1): (5731, 724, 710)}
RELEASED_COUNTS = {group: sum(counts) for group, counts in RELEASED_SHARES.items()}
# the full release has 23,708 faces, some of them with broken names
FULL = 23_000


@dataclass(frozen=True)
class Faces:
    """The faces that have a label and a bias: names, labels int64 [N], biases int64 [N]."""

    names: list[str]
    labels: NDArray[np.int64]
    biases: NDArray[np.int64]


class UTKFace(Benchmark):
    """UTKFace (Zhang et al., CVPR 2017) as From Fake to Real has it (Qraitem et al., ECCV 2024, arXiv 2308.04553).

    The aligned and cropped faces from https://susanqq.github.io/UTKFace, in a folder or zip, in folders or not::

        root/**/<age>_<gender>_<race>_<date>.jpg[.chip.jpg]

    Age is 0 young up to 5 years and 1 old from 20 to 50, other ages are dropped; gender is 0 male, 1 female; race is 0
    White, 1 other. Bias i goes with class i, so young men and old women are aligned. (The authors number the ages the
    other way: their 0 is our 1.) Names without these fields are left out, and so is a name that comes again in another
    folder.

    The authors' split follows the order of their folder, which is not known; this one is drawn by seed, group by group,
    8 : 1 : 1, for young men and old women in the proportions of the authors, so that the full release gives their
    counts in training and validation, and in the test about theirs. Pictures stored under several names go to training,
    so that none is trained on and tested. Then `bias_ratio` cuts training and validation, never the test.

    Args:
        root: The folder or zip file.
        target: What the class is.
        bias: What the bias attribute is.
        bias_ratio: Share of aligned images in each class of training and validation; the authors have 0.9, 0.95, 0.97,
            0.99 and 0.999. None takes all, which are hardly biased.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = "get the aligned and cropped faces of UTKFace from https://susanqq.github.io/UTKFace"

    def __init__(
        self,
        root: Path,
        *,
        target: Attribute = "gender",
        bias: Attribute = "age",
        bias_ratio: float | None = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        check_bias_ratio(bias_ratio)
        if target == bias:
            raise ConfigError(f"data.bias={bias} is data.target too; give another attribute")
        self.target: Attribute = target
        self.bias: Attribute = bias
        self.bias_ratio = bias_ratio

    @property
    def class_names(self) -> tuple[str, ...]:
        """The two values of the target."""
        return VALUES[self.target]

    @property
    def bias_names(self) -> tuple[str, ...]:
        """The two values of the bias; value i goes with class i."""
        return VALUES[self.bias]

    @cached_property
    def _faces(self) -> Faces:
        named = self._named()
        names: list[str] = []
        groups: list[tuple[int, int]] = []
        for name, values in named.items():
            label, bias = values[self.target], values[self.bias]
            if label is not None and bias is not None:
                names.append(name)
                groups.append((label, bias))
        if not names:
            raise self.unusable("has no image <age>_<gender>_<race>_<date> of an age up to 5 or from 20 to 50")
        labels, biases = np.array(groups, dtype=np.int64).T
        if self._as_released:
            compare_counts("UTKFace", labels, biases, RELEASED_COUNTS, complete=len(named) > FULL)
        return Faces(names, labels, biases)

    def _named(self) -> dict[str, dict[Attribute, int | None]]:
        """Values of all attributes by file, None where an age is dropped."""
        named: dict[str, dict[Attribute, int | None]] = {}
        seen: set[str] = set()
        unusable: list[str] = []
        for name in self.container.names([""]):
            face = name.rsplit("/", 1)[-1].split(".")[0]
            match = NAME.fullmatch(face)
            if match is None or face in seen:
                unusable.append(name)
                continue
            seen.add(face)
            age, gender, race = map(int, match.groups())
            old = 0 if age <= 5 else 1 if 20 <= age <= 50 else None
            named[name] = {"gender": gender, "age": old, "race": int(race > 0)}
        if unusable:
            log.info(
                "UTKFace: %d files are left out, for their names lack a field or came before, the first is %s",
                len(unusable),
                unusable[0],
            )
        return named

    @property
    def _as_released(self) -> bool:
        return (self.target, self.bias) == ("gender", "age")

    @cached_property
    def _splits(self) -> dict[Split, NDArray[np.int64]]:
        """Positions of the faces of every split, ascending."""
        faces = self._faces
        digests = [self._digest(name) for name in faces.names]
        often = Counter(digests)
        single = np.array([often[digest] == 1 for digest in digests])
        shuffled = np.random.default_rng([self.seed, 0x55544B]).permutation(len(single))
        order = shuffled[np.argsort(single[shuffled], kind="stable")]
        parts: dict[Split, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
        for group in sorted(set(zip(faces.labels.tolist(), faces.biases.tolist(), strict=True))):
            members = order[(faces.labels[order] == group[0]) & (faces.biases[order] == group[1])]
            shares = RELEASED_SHARES.get(group, SHARES) if self._as_released else SHARES
            ends = np.round(len(members) * np.cumsum(shares) / sum(shares)).astype(np.int64)
            for split, part in zip(SPLITS, np.split(members, ends[:-1]), strict=True):
                parts[split].append(part)
        return {split: np.sort(np.concatenate(part)) for split, part in parts.items()}

    def _digest(self, name: str) -> bytes:
        try:
            return hashlib.sha1(self.container.read(name), usedforsecurity=False).digest()
        except OSError as error:
            raise ConfigError(f"cannot read {self.container.where(name)}; replace the file or delete it") from error

    def load(self, split: Split) -> Samples:
        """Lists one split; the pictures are decoded later."""
        faces = self._faces
        everything = Samples(ImageFiles(self.container, faces.names), faces.labels, faces.biases)
        return thin_conflicts(everything.select(self._splits[split]), self.bias_ratio, split, self.seed)
