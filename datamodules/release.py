"""The align/conflict layout in which the biased sets of DisEnt and BiasEnsemble are released."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.biased_split import RATIOS
from datamodules.images import Container, ImageFiles
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

# "conlict" is how the README of the release spells it
CONFLICT = ("conflict", "conlict")
# the first field may hold anything, dots too
NAME = re.compile(r".*_(\d+)_(\d+)\.[^.]+")


def named_samples(container: Container, folders: Sequence[str], class_names: Sequence[str]) -> Samples:
    """Lists images by their names `<anything>_<label>_<bias>.<ext>`.

    Args:
        container: The folder or zip file of the set.
        folders: Folders inside it, such as `test/`; images may lie in them or in folders of one class each.
        class_names: Names of the classes; there are as many bias attributes.

    Returns:
        The images, sorted by name; none where the folders are missing or empty.

    Raises:
        ConfigError: A name has no label or bias, or one outside the classes; a class folder contradicts the names in
            it; the same file name comes twice.
    """
    names = container.names(folders)
    groups = np.array([_group(container, name, class_names) for name in names], dtype=np.int64).reshape(-1, 2)
    first: dict[str, str] = {}
    for name in names:
        twin = first.setdefault(PurePosixPath(name).stem, name)
        if twin is not name:
            raise ConfigError(f"data.root: {container.path} holds the same image as {twin} and as {name}; delete one")
    return Samples(ImageFiles(container, names), groups[:, 0], groups[:, 1])


def join(first: Samples, second: Samples) -> Samples:
    """Puts two lists of files, both of the same container, one after the other."""
    assert isinstance(first.images, ImageFiles)
    assert isinstance(second.images, ImageFiles)
    names = [*first.images.names, *second.images.names]
    return Samples(
        ImageFiles(first.images.container, names),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.biases, second.biases]),
    )


def _group(container: Container, name: str, class_names: Sequence[str]) -> tuple[int, int]:
    path = PurePosixPath(name)
    match = NAME.fullmatch(path.name)
    if match is None or max(int(match[1]), int(match[2])) >= len(class_names):
        raise ConfigError(
            f"data.root: {container.path} holds {name}, whose name is not <name>_<label>_<bias> with numbers 0 to "
            f"{len(class_names) - 1}; move it away"
        )
    label, folder = int(match[1]), path.parent.name
    told = class_names.index(folder) if folder in class_names else int(folder) if folder.isdecimal() else label
    if told != label:
        raise ConfigError(
            f"data.root: {container.path} holds {name}, whose name says class {label} and whose folder says {folder}; "
            "move or rename it"
        )
    return label, int(match[2])


@dataclass(frozen=True)
class Release:
    """A set in the layout of the release (Lee et al., DisEnt, NeurIPS 2021; Lee et al., BiasEnsemble, AAAI 2023).

    Below `folder`::

        {0.5pct,1pct,2pct,5pct}/align/<class>/<name>_<label>_<bias>.png
                                conflict/<class>/...      ("conlict" is read too)
                                valid/...                 (or valid/ beside the shares; class folders or none)
        test/...                                          (class folders or none)

    As in the reference code, labels and biases are those of the names.

    Attributes:
        container: The folder or zip file of the set.
        folder: Where the shares are in it: "" or a folder with a slash at its end.
        percent: The share of bias-conflict training images.
        class_names: Names of the classes.
    """

    container: Container
    folder: str
    percent: str
    class_names: tuple[str, ...]

    def load(self, split: Split) -> Samples | None:
        """Lists one split; None for `val` when there is none.

        Raises:
            ConfigError: The share, `align`, `conflict` or `test` is missing or empty, or see `named_samples`.
        """
        share = f"{self.folder}{self.percent}/"
        if split == "train":
            return self._train(share)
        if split == "test":
            return self._some(f"{self.folder}test/")
        for folder in (f"{share}valid/", f"{self.folder}valid/"):
            samples = named_samples(self.container, [folder], self.class_names)
            if len(samples):
                return samples
        return None

    def _train(self, share: str) -> Samples:
        if not self.container.has(share):
            there = [percent for percent in RATIOS if self.container.has(f"{self.folder}{percent}/")]
            raise ConfigError(
                f"data.percent={self.percent}: {self.container.path} has no folder {share}; there is "
                f"{', '.join(there) or 'none'}"
            )
        aligned = self._some(f"{share}align/")
        conflict = self._some(*(f"{share}{name}/" for name in CONFLICT))
        wrong = int((aligned.labels != aligned.biases).sum() + (conflict.labels == conflict.biases).sum())
        if wrong:
            log.warning(
                "%s: %d of %d names below %s contradict align or conflict (is label == bias?); the names are believed",
                self.container.path,
                wrong,
                len(aligned) + len(conflict),
                share,
            )
        return join(aligned, conflict)

    def _some(self, *folders: str) -> Samples:
        samples = named_samples(self.container, folders, self.class_names)
        if not len(samples):
            raise ConfigError(f"data.root: {self.container.path} has no image below {folders[0]}; unpack the set again")
        return samples


def find_release(root: Path, name: str, percent: str, class_names: tuple[str, ...]) -> Release | None:
    """Looks for the layout of the release.

    Args:
        root: The folder (or zip file) that holds the shares, or that holds the folder `name` with them.
        name: What the release calls the set, such as `cmnist`.
        percent: The share of bias-conflict training images.
        class_names: Names of the classes.

    Returns:
        The release, or None when no share (`0.5pct`, ...) is there.
    """
    if not root.exists():
        return None
    container = Container(root)
    for folder in ("", f"{name}/"):
        if any(container.has(f"{folder}{share}/") for share in RATIOS):
            return Release(container, folder, percent, class_names)
    return None
