"""Writes small data sets in every on-disk layout that the data modules read; the same seed gives the same files."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.bar import CLASSES


def picture(number: int, size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    """A smooth picture of its own for every number, so that JPEG keeps it recognisable; `size` is (width, height)."""
    coarse = np.random.default_rng([seed, number]).integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _save(root: Path, name: str, number: int, seed: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, (40 + number % 5, 30 + number % 3), seed).save(path, quality=95)


def write_bar_official(root: Path, train: int = 6, test: int = 3, seed: int = 0) -> Path:
    """The official release of BAR: root/{train,test}/<class>_<number>.jpg, `train` and `test` images a class."""
    for label, action in enumerate(CLASSES):
        for number in range(1, train + test + 1):
            split = "train" if number <= train else "test"
            _save(root, f"{split}/{action}_{number}.jpg", label * 1000 + number, seed)
    return root


def write_bar_zip(path: Path, train: int = 6, test: int = 3, seed: int = 0, prefix: str = "") -> Path:
    """The official release as one zip file, with the `metadata.json` that it holds too."""
    folder = write_bar_official(path.with_suffix(""), train, test, seed)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}metadata.json", "{}")
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def write_bar_resplit(
    root: Path,
    aligned: int = 6,
    conflict: int = 2,
    valid: int = 2,
    test: int = 3,
    seed: int = 0,
    conflict_name: str = "conflict",
) -> Path:
    """The align/conflict re-split of BAR, all numbers a class; the bias fields of training names mean nothing."""
    count = len(CLASSES)
    for label in range(count):
        plans = [
            ("train/align", aligned, 0),
            (f"train/{conflict_name}/1pct", conflict // 2 or 1, 0),
            (f"train/{conflict_name}/5pct", conflict, 0),
            ("valid", valid, label),
            ("test", test, (label + 2) % count),
        ]
        for order, (folder, images, bias) in enumerate(plans):
            for number in range(images):
                name = f"{folder}/{label}/pole vaulting 0.5_{number}_{label}_{bias}.jpg"
                _save(root, name, order * 10000 + label * 1000 + number, seed)
    return root


def write_synthetic(
    folder: Path,
    labels: Sequence[int],
    class_names: Sequence[str],
    size: int = 32,
    seed: int = 0,
    biases: Sequence[int] | None = None,
    weight: float = 1.0,
) -> Path:
    """A finished synthesis: images/000000.png ... and metadata.jsonl."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as stream:
        for number, label in enumerate(labels):
            name = f"images/{number:06d}.png"
            picture(number, (size, size), seed + 1).save(folder / name)
            record = {"file_name": name, "label": label, "class_name": class_names[label], "source_index": number}
            record["weight"] = weight
            record |= {} if biases is None else {"bias": biases[number]}
            stream.write(json.dumps(record) + "\n")
    return folder


def write_selection(folder: Path, indices: Sequence[int]) -> Path:
    """A finished mining: selection.json."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [{"index": index, "label": 0, "bias": 0, "loss": 1.0} for index in indices]
    (folder / "selection.json").write_text(json.dumps({"fingerprint": {}, "items": items}))
    return folder
