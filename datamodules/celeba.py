"""CelebA and CelebA-HQ: an attribute of a face, where another attribute gives it away."""

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.benchmark import Benchmark, compare_counts
from datamodules.bias_ratio import check_bias_ratio, thin_conflicts
from datamodules.images import Container, ImageFiles
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Names of the files of a release, and of the folder that a download may have around them."""

    folder: str
    attributes: str
    images: str
    partition: str | None


LAYOUTS = {
    "celeba": Layout("celeba/", "list_attr_celeba.txt", "img_align_celeba", "list_eval_partition.txt"),
    "celeba_hq": Layout("CelebAMask-HQ/", "CelebAMask-HQ-attribute-anno.txt", "CelebA-HQ-img", None),
}
SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
# non-smiling men and smiling women of CelebA-HQ, the sums of the released splits of From Fake to Real
HQ_SIZE = 30_000
HQ_COUNTS = {(0, 0): 6694, (1, 1): 9729}


@dataclass(frozen=True)
class Faces:
    """All faces: files, labels int64 [N], the bias attribute as the table has it, 0 or 1 [N], numbers of splits [N]."""

    files: ImageFiles
    labels: NDArray[np.int64]
    attribute: NDArray[np.int64]
    splits: NDArray[np.int64]


class CelebA(Benchmark):
    """CelebA (Liu et al., ICCV 2015) or CelebA-HQ, with any of the 40 attributes as class and any other as bias.

    CelebA from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, as torchvision keeps it, with its official split
    (root may also be the folder celeba itself)::

        root/celeba/list_attr_celeba.txt
        root/celeba/list_eval_partition.txt
        root/celeba/img_align_celeba/<name>.jpg          or  root/celeba/img_align_celeba.zip

    torchvision's own class is not used: it wants five annotation files, each with its checksum, and the images
    unpacked.

    CelebA-HQ from https://github.com/switchablenorms/CelebAMask-HQ::

        root/CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt
        root/CelebAMask-HQ/CelebA-HQ-img/<name>.jpg

    It is split 80/10/10 in the order of its table. From Fake to Real (Qraitem et al., ECCV 2024) splits so in the order
    of a folder, which is not known, so that its counts come out nearly, not exactly; it has target Smiling, bias Male.

    Class 1 has the target attribute. The values of the bias are numbered so that the aligned training images, bias ==
    label, are more than the others: with Blond_Hair and Male, blond women and non-blond men are aligned.

    Args:
        root: The folder.
        target: The attribute that is the class.
        bias: The attribute that is the bias.
        bias_ratio: Share of aligned images in each class of training and validation; conflict images are left out as in
            From Fake to Real, which has 0.9, 0.95, 0.97, 0.99 and 0.999. None takes all.
        layout: Which of the two releases is in the folder; found out when not given.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = (
        "get CelebA from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html or CelebA-HQ from "
        "https://github.com/switchablenorms/CelebAMask-HQ"
    )

    def __init__(
        self,
        root: Path,
        *,
        target: str = "Blond_Hair",
        bias: str = "Male",
        bias_ratio: float | None = None,
        layout: Literal["auto", "celeba", "celeba_hq"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        check_bias_ratio(bias_ratio)
        if target == bias:
            raise ConfigError(f"data.bias={bias} is data.target too; give another attribute")
        self.target = target
        self.bias = bias
        self.bias_ratio = bias_ratio
        self.layout = layout

    @property
    def class_names(self) -> tuple[str, ...]:
        """Without and with the target attribute."""
        return (f"not {self.target}", self.target)

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Without and with the bias attribute, in the order in which they go with the classes."""
        values = (f"not {self.bias}", self.bias)
        return values[::-1] if self._flipped else values

    @cached_property
    def _home(self) -> tuple[Layout, Path]:
        wanted = LAYOUTS.values() if self.layout == "auto" else [LAYOUTS[self.layout]]
        for layout in wanted:
            for folder in ("", layout.folder):
                if (self.container.path / folder / layout.attributes).is_file():
                    return layout, self.root / folder
        raise self.unusable(f"has no {' and no '.join(layout.attributes for layout in wanted)}")

    @cached_property
    def _faces(self) -> Faces:
        layout, home = self._home
        columns = {"data.target": self.target, "data.bias": self.bias}
        names, values = read_attributes(home / layout.attributes, columns)
        packed = home / f"{layout.images}.zip"
        container = Container(packed) if packed.is_file() and not (home / layout.images).is_dir() else Container(home)
        paths = [f"{layout.images}/{name}" for name in names]
        self.check_files(container, f"{layout.images}/", paths)
        if layout.partition is None:
            splits = np.searchsorted([int(len(names) * 0.8), int(len(names) * 0.9)], np.arange(len(names)), "right")
        else:
            splits = self._partition(home / layout.partition, names)
        return Faces(ImageFiles(container, paths), values[:, 0], values[:, 1], splits)

    def _partition(self, path: Path, names: list[str]) -> NDArray[np.int64]:
        if not path.is_file():
            raise self.unusable(f"has no {path.name}")
        text = path.read_text(encoding="utf-8", errors="replace")
        rows = [line.split() for line in text.splitlines() if line.strip()]
        table = {row[0]: row[-1] for row in rows}
        for name in names:
            if table.get(name) not in ("0", "1", "2"):
                raise ConfigError(f"data.root: {path} gives {name} no split 0, 1 or 2; {self.ORIGIN}")
        return np.array([int(table[name]) for name in names], dtype=np.int64)

    @cached_property
    def _flipped(self) -> bool:
        """Whether the bias attribute is numbered 0 where a face has it."""
        faces = self._faces
        training = faces.splits == SPLITS["train"]
        same = int(np.sum(faces.labels[training] == faces.attribute[training]))
        return 2 * same < int(training.sum())

    def load(self, split: Split) -> Samples | None:
        """Lists one split; the pictures are decoded later. None where the table has no validation faces."""
        faces = self._faces
        biases = 1 - faces.attribute if self._flipped else faces.attribute
        if (self.target, self.bias) == ("Smiling", "Male") and self._home[0] is LAYOUTS["celeba_hq"]:
            complete = split == "train" and len(biases) == HQ_SIZE
            compare_counts("CelebA-HQ", faces.labels, biases, HQ_COUNTS, complete)
        whole = Samples(faces.files, faces.labels, biases)
        part = whole.select(np.flatnonzero(faces.splits == SPLITS[split]))
        if split == "val" and not len(part):
            return None
        return thin_conflicts(part, self.bias_ratio, split, self.seed)


def read_attributes(path: Path, wanted: dict[str, str]) -> tuple[list[str], NDArray[np.int64]]:
    """Reads attributes from a table of CelebA or CelebA-HQ.

    The first line has the number of faces, the second the names of the attributes, every other line the name of a file
    and 1 or -1 for each attribute.

    Args:
        path: The table.
        wanted: Name of every attribute to be read, by the setting that gives it.

    Returns:
        Names of the files, and their attributes in the order of `wanted`, 0 or 1, int64 [N, len(wanted)].

    Raises:
        ConfigError: An attribute is not in the table, or the table is broken.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    attributes = lines[1].split() if len(lines) > 1 else []
    for setting, name in wanted.items():
        if name not in attributes:
            close = difflib.get_close_matches(name, attributes, cutoff=0.5) or attributes
            raise ConfigError(f"{setting}={name} is no attribute in {path}; choose from {', '.join(close)}")
    columns = [attributes.index(name) + 1 for name in wanted.values()]
    names: list[str] = []
    values: list[list[int]] = []
    for number, line in enumerate(lines[2:], start=3):
        fields = line.split()
        if not fields:
            continue
        chosen = [fields[column] for column in columns] if len(fields) == len(attributes) + 1 else []
        if not chosen or not set(chosen) <= {"1", "-1", "0"}:
            raise ConfigError(
                f"data.root: line {number} of {path} is not a name and {len(attributes)} values 1 or -1; "
                "download the file again"
            )
        names.append(fields[0])
        values.append([int(value == "1") for value in chosen])
    return names, np.array(values, dtype=np.int64).reshape(-1, len(wanted))
