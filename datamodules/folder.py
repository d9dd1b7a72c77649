"""Your own images, in folders named after their classes."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.images import Container, ImageFiles
from datamodules.own_data import SPLIT_NAMES, Listing, OwnData, one_form, warn
from datamodules.samples import Split
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

LAYOUT = "<class>/<image> below train, val and test, or without these three folders"


class Folder(OwnData):
    """Images of your own in class folders, in a folder or a zip of it; further folders below a class are read too.

    There is a folder for each split::

        root/train/<class>/<image>
        root/val/<class>/<image>       (or valid, validation; held out from train if missing)
        root/test/<class>/<image>      (held out from train if missing)

    Without a folder train, the classes lie below root, and validation and test set are held out::

        root/<class>/<image>

    Bias labels are optional. `bias: folder` reads them from a second level of folders, `bias: field` from the image's
    name, such as `0001_red.jpg`::

        root/train/<class>/<bias>/<image>

    Hidden files, those that do not end like an image and the folders of runs are left alone, and so are other folders
    beside train, which the log names. Images of a class that train does not have are an error. A single folder around
    everything, as many a zip has, is stepped into.

    Args:
        root: The folder or zip file.
        bias: Where bias labels come from.
        bias_field: For `bias: field`: which part of the image's name, when that is split at each "_"; from 0, or from
            -1 backwards.
        **kwargs: Arguments of `OwnData`.
    """

    KEY: ClassVar[str] = "data.root"

    def __init__(
        self,
        root: Path,
        *,
        bias: Literal["none", "folder", "field"] = "none",
        bias_field: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.bias = bias
        self.bias_field = bias_field

    @cached_property
    def _container(self) -> Container:
        if not self.root.exists():
            raise ConfigError(f"data.root: {self.root} does not exist; give a folder, or a zip, with {LAYOUT}")
        return Container(self.root)

    @cached_property
    def _top(self) -> str:
        folders = self._container.folders()
        if len(folders) == 1 and folders[0].lower() not in SPLIT_NAMES and self._container.folders(f"{folders[0]}/"):
            return f"{folders[0]}/"
        return ""

    def _folders(self) -> dict[Split, str]:
        """The folder of each split that has one; the classes alone are `train`."""
        found: dict[Split, str] = {}
        names = self._container.folders(self._top)
        for name in names:
            split = SPLIT_NAMES.get(name.lower())
            if split in found:
                raise ConfigError(
                    f"data.root: {self.root} has the folders {found[split][len(self._top) : -1]} and {name}, both for "
                    f"the {split} split; keep one"
                )
            if split:
                found[split] = f"{self._top}{name}/"
        if found and "train" not in found:
            raise ConfigError(
                f"data.root: {self.root} has {', '.join(found.values())} but no folder train; give {LAYOUT}"
            )
        if not names:
            raise ConfigError(f"data.root: {self.root} has no folder in it; give {LAYOUT}")
        others = [name for name in names if name.lower() not in SPLIT_NAMES]
        if found and others:
            log.info("data.root: not read, for they are not called train, val or test: %s", ", ".join(others))
        return found or {"train": self._top}

    def read_listing(self) -> Listing:
        """Lists all images below the root."""
        names: list[str] = []
        labels: list[str] = []
        biases: list[str] = []
        splits: list[Split] = []
        folders = self._folders()
        listed = {split: self._container.names([folder]) for split, folder in folders.items()}
        if self._container.unread:
            warn("not read: " + ", ".join(f"{count} {end}" for end, count in sorted(self._container.unread.items())))
        for split, found in listed.items():
            folder = folders[split]
            if not found:
                raise ConfigError(f"data.root: {self._container.where(folder)} holds no image; add some or delete it")
            if folder == self._top:
                self._check_level(found)
            for name in found:
                label, bias = self._fields(name, folder)
                labels.append(label)
                biases.append(bias)
            names += found
            splits += [split] * len(found)
            if split == "train":
                self._check_classes(folder, set(labels))
        return Listing(ImageFiles(self._container, names), labels, biases, splits)

    def _check_level(self, names: list[str]) -> None:
        """Refuses a root without splits whose classes have them: it lies one folder too high."""
        below: dict[str, dict[str, str]] = {}
        for name in names:
            above = name.removeprefix(self._top).split("/")[:-1]
            if len(above) > 1 and above[1].lower() in SPLIT_NAMES:
                below.setdefault(above[0], {})[above[1].lower()] = above[1]
        if below:
            name, found = next(iter(below.items()))
            where = self._container.where(f"{self._top}{name}")
            splits = ", ".join(found[split] for split in SPLIT_NAMES if split in found)
            remedy = "that folder" if len(below) == 1 else LAYOUT
            raise ConfigError(f"data.root: {where} holds {splits}: give {remedy}")

    def _check_classes(self, folder: str, classes: set[str]) -> None:
        for name in self._container.folders(folder):
            if one_form(name) not in classes:
                raise ConfigError(
                    f"data.root: {self._container.where(f'{folder}{name}')} holds no image; add some or delete it"
                )

    def _fields(self, name: str, folder: str) -> tuple[str, str]:
        """Class and bias of an image."""
        *above, file = one_form(name.removeprefix(folder)).split("/")
        expected = "<class>/<bias>" if self.bias == "folder" else "<class>"
        if len(above) < expected.count("/") + 1:
            raise ConfigError(
                f"data.root: {self._container.where(name)} does not lie in a folder {folder}{expected}; move it there "
                "or away"
            )
        if self.bias == "none":
            return above[0], ""
        if self.bias == "folder":
            return above[0], above[1]
        fields = file.rsplit(".", 1)[0].split("_")
        if not -len(fields) <= self.bias_field < len(fields):
            raise ConfigError(
                f"data.bias_field={self.bias_field}: the name of {self._container.where(name)} has no such part, "
                f"split at _ it has {len(fields)}; give another number or rename the image"
            )
        return above[0], fields[self.bias_field]
