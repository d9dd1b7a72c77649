"""The four IDX files of MNIST, in small."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def digits(count: int, per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mixed classes; the first row of picture i spells i in binary (0 or 255), so that it can be told again."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(count, dtype=np.uint8), per_class))
    images = random.integers(0, 256, size=(len(labels), 28, 28), dtype=np.uint8)
    images[:, 0, :16] = (np.arange(len(labels))[:, None] >> np.arange(16) & 1) * 255
    images[:, 1, 0] = 255
    return images, labels


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, *, per_group: int = 24, test: int = 10, packed: bool = False, seed: int = 0) -> Path:
    """Writes the files into root; `per_group` training and `test` test images a class."""
    root.mkdir(parents=True, exist_ok=True)
    for number, (names, per_class) in enumerate(((TRAIN_FILES, per_group), (TEST_FILES, test))):
        for name, array in zip(names, digits(10, per_class, seed + number), strict=True):
            data = idx(array)
            (root / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(data) if packed else data)
    return root
