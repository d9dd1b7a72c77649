"""What the benchmarks on the user's disk share: the root, the folders of their groups, the official counts."""

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.augment import IMAGENET_MEAN, IMAGENET_STD
from datamodules.base import DebiasDataModule
from datamodules.images import SUFFIXES, Container, ImageFiles
from datamodules.samples import Samples
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

# (label, bias) of a group
Group = tuple[int, int]


class Benchmark(DebiasDataModule):
    """Base of the data sets that the user has on disk, at about 224 pixels.

    Pictures are decoded when they are needed; `cache=True` keeps them, 150 kB each at 224 pixels.

    Args:
        root: The folder, or a zip file of it, that the class shows as a tree.
        mean: Mean of each channel (ImageNet's).
        std: Standard deviation of each channel (ImageNet's).
        num_workers: Loader processes.
        **kwargs: Arguments of `DebiasDataModule`.
    """

    ORIGIN: ClassVar[str]
    """What the user can do about missing files: where to get them."""

    def __init__(
        self,
        root: Path,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        num_workers: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, num_workers=num_workers, **kwargs)
        self.root = Path(root).expanduser()

    def unusable(self, why: str) -> ConfigError:
        """Returns the error that says what is wrong with the root, and where to get the files."""
        return ConfigError(f"data.root: {self.root} {why}; {self.ORIGIN}")

    @cached_property
    def container(self) -> Container:
        """The root, which exists."""
        if not self.root.exists():
            raise self.unusable("does not exist")
        return Container(self.root)

    def locate(self, marker: str, *folders: str) -> str:
        """Finds where the data set begins, for downloads have folders around it.

        Args:
            marker: A file or a folder (`name/`) of the data set.
            *folders: Where it may lie, such as `"", "urbancars/"`.

        Returns:
            The first of the folders that holds it.

        Raises:
            ConfigError: None does.
        """
        for folder in folders:
            if self.container.has(folder + marker) or self.container.holds(folder + marker):
                return folder
        raise self.unusable(f"has no {marker}")

    def group_samples(
        self, groups: Mapping[str, Group], *, suffixes: tuple[str, ...] = SUFFIXES, all_needed: bool = True
    ) -> Samples:
        """Lists a split whose groups are folders.

        Args:
            groups: (label, bias) of every folder, such as `train/landbirds/water/`.
            suffixes: Endings of the pictures, in lower case.
            all_needed: Whether every folder must hold a picture; one of them must in any case.

        Returns:
            The pictures, group after group, in the order of their names.

        Raises:
            ConfigError: Pictures are missing.
        """
        names: list[str] = []
        found: list[Group] = []
        for folder, group in groups.items():
            inside = [name for name in self.container.names([folder]) if name.lower().endswith(suffixes)]
            if not inside and all_needed:
                raise self.unusable(f"has no image below {folder}")
            names += inside
            found += [group] * len(inside)
        if not names:
            raise self.unusable(f"has no image below {next(iter(groups))} or the folders beside it")
        labels, biases = np.array(found, dtype=np.int64).T
        return Samples(ImageFiles(self.container, names), labels, biases)

    def check_files(self, container: Container, folder: str, names: Iterable[str]) -> None:
        """Makes sure that every file of a list is there.

        Args:
            container: Where the files are.
            folder: The folder that holds them all, such as `CelebA-HQ-img/`.
            names: Names inside the container.

        Raises:
            ConfigError: Files are missing.
        """
        there = set(container.names([folder]))
        missing = [name for name in names if name not in there]
        if missing:
            raise self.unusable(f"lacks {len(missing)} of the listed images, the first is {missing[0]}")


def compare_counts(
    what: str,
    labels: NDArray[np.int64],
    biases: NDArray[np.int64],
    official: Mapping[Group, int],
    complete: bool | None = None,
) -> None:
    """Logs one warning where a complete set has other groups than its authors say; parts of a set are nobody's concern.

    Args:
        what: How the set is called in the log.
        labels: Classes, int64 [N].
        biases: Bias attributes, int64 [N].
        official: Images of each group (label, bias) to be compared.
        complete: Whether the set is complete; None judges by its size, which is then that of all official groups.
    """
    if complete is None:
        complete = len(labels) == sum(official.values())
    found = {(label, bias): int(np.sum((labels == label) & (biases == bias))) for label, bias in official}
    if complete and found != dict(official):
        log.warning("%s has the groups (label, bias) %s, but officially %s", what, found, dict(official))
