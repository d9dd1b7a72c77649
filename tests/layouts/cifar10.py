"""CIFAR-10 in small: class folders of PNG files, and the Python version that torchvision reads."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.corrupted_cifar10 import BATCHES, CLASSES
from tests.generators import picture

SIDE = 32
BATCH_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))


def plain(split: str, number: int, seed: int = 0) -> NDArray[np.uint8]:
    """Picture `number` of train or test."""
    return np.asarray(picture(number + 100_000 * (split == "test"), (SIDE, SIDE), seed))


def write_cifar10(root: Path, *, per_group: int = 20, test: int = 10, seed: int = 0) -> Path:
    """Class folders root/{train,test}/<class>/; `per_group` training and `test` test images a class, class by class."""
    for split, count in (("train", per_group), ("test", test)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(label * count, (label + 1) * count):
                path = folder / f"{number:05d}.png"
                picture(number + 100_000 * (split == "test"), (SIDE, SIDE), seed).save(path)
    return root


def write_cifar10_batches(root: Path, *, per_group: int = 20, test: int = 10, seed: int = 0) -> dict[str, str]:
    """The same pictures in the same order as root/cifar-10-batches-py; returns the MD5 of each of its files."""
    folder = root / BATCHES
    folder.mkdir(parents=True)
    files: dict[str, object] = {"batches.meta": {"label_names": list(CLASSES)}}
    for split, count, names in (("train", per_group, BATCH_FILES), ("test", test, ("test_batch",))):
        for name, numbers in zip(names, np.array_split(np.arange(10 * count), len(names)), strict=True):
            images = np.stack([plain(split, number, seed) for number in numbers.tolist()])
            data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            files[name] = {"data": data, "labels": (numbers // count).tolist()}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
