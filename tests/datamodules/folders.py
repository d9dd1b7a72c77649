"""A folder as data, in small."""

import zipfile
from pathlib import Path
from typing import Any

from datamodules.folder import Folder
from tests.datamodules.reading import SPLITS, names


def small(root: Path, **options: Any) -> Folder:
    return Folder(root, **{"image_size": 16, "num_workers": 0, "batch_size": 8, "augment": "none", **options})


def loaded(root: Path, **options: Any) -> Folder:
    data = small(root, **options)
    data.setup("fit")
    return data


def splits(data: Folder) -> dict[str, list[str]]:
    """File names of each split."""
    return {split: names(data.load(split)) for split in SPLITS}


def zipped(root: Path, prefix: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path
