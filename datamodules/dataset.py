"""The data set behind every loader: whole batches are fetched at once, pictures come from memory or from files."""

import mmap
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.augment import Transform
from datamodules.images import ImageFiles

Batch = dict[str, Tensor]
Item = int | tuple[int, int]


class Store(Protocol):
    """Pictures that can be fetched by position."""

    def __len__(self) -> int:
        """Returns the number of pictures."""
        ...

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the pictures at the positions [B] as uint8 [B, S, S, 3]."""
        ...

    def original(self, position: int) -> Image.Image:
        """Returns one picture as it was before it was resized, mode RGB."""
        ...


class ArrayStore:
    """Pictures that are in memory.

    Args:
        images: uint8, shape [N, H, W, 3].
        size: Side of the pictures that `gather` returns, in pixels.
    """

    def __init__(self, images: NDArray[np.uint8], size: int) -> None:
        self._originals = images
        self._images = images
        if len(images) and images.shape[1:3] != (size, size):
            resized = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in images]
            self._images = np.stack([np.asarray(image) for image in resized])

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self._images)

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the pictures at the positions [B] as uint8 [B, S, S, 3]."""
        return self._images[positions]

    def original(self, position: int) -> Image.Image:
        """Returns one picture in its own size, mode RGB."""
        return Image.fromarray(self._originals[position])


class FileStore:
    """Pictures that are decoded when they are asked for.

    Args:
        files: Where the pictures are.
        size: Side of the pictures that `gather` returns, in pixels.
        cache: Keep every decoded picture in memory, `size * size * 3` bytes each. The memory is shared with forked
            workers, so that a picture is decoded once and not once per worker.
    """

    def __init__(self, files: ImageFiles, size: int, cache: bool) -> None:
        self.files = files
        self.size = size
        self.cache = cache and len(files) > 0
        self._pixels: NDArray[np.uint8] | None = None
        self._known: NDArray[np.uint8] | None = None
        if self.cache:
            self._allocate()

    def _allocate(self) -> None:
        # an anonymous shared mapping: pages are taken when written, and /dev/shm (tiny in containers) is not used
        count, length = len(self.files), self.size * self.size * 3
        buffer = mmap.mmap(-1, count * (length + 1))
        flat = np.frombuffer(buffer, dtype=np.uint8)
        self._pixels = flat[: count * length].reshape(count, self.size, self.size, 3)
        self._known = flat[count * length :]

    def __getstate__(self) -> dict[str, object]:
        """Leaves the cache behind: a spawned worker starts with an empty one."""
        return {**self.__dict__, "_pixels": None, "_known": None}

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.files)

    def _decode(self, position: int) -> NDArray[np.uint8]:
        return np.asarray(self.files.open(position, self.size))

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the pictures at the positions [B] as uint8 [B, S, S, 3]."""
        if not self.cache:
            out = np.empty((len(positions), self.size, self.size, 3), dtype=np.uint8)
            for target, position in zip(out, positions.tolist(), strict=True):
                target[:] = self._decode(position)
            return out
        if self._pixels is None or self._known is None:
            self._allocate()
        assert self._pixels is not None
        assert self._known is not None
        for position in positions[self._known[positions] == 0].tolist():
            self._pixels[position] = self._decode(position)
            self._known[position] = 1
        return self._pixels[positions]

    def take_over(self, other: "FileStore", positions: NDArray[np.int64]) -> None:
        """Copies what another store has decoded: picture i here is picture `positions[i]` there."""
        if self._pixels is not None and self._known is not None and other._pixels is not None:
            assert other._known is not None
            # "clip": the default mode would gather into a third buffer first
            np.take(other._pixels, positions, axis=0, out=self._pixels, mode="clip")
            np.take(other._known, positions, out=self._known, mode="clip")

    def original(self, position: int) -> Image.Image:
        """Returns one picture in its own size, mode RGB."""
        return self.files.open(position)


class Part:
    """A labelled set of pictures.

    Args:
        images: The pictures.
        labels: Class of each, int64 [N].
        biases: Bias attribute of each, int64 [N], -1 where unknown.
        synthetic: Whether the pictures were generated.
        weights: How much each counts in training, float32 [N]; None for 1 throughout.
        texts: Texts that describe each picture, see `Samples`.
    """

    def __init__(
        self,
        images: Store,
        labels: NDArray[np.int64],
        biases: NDArray[np.int64],
        synthetic: bool = False,
        weights: NDArray[np.float32] | None = None,
        texts: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.biases = biases
        self.synthetic = synthetic
        self.weights = weights
        self.texts = texts

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.labels)


class ImageDataset(Dataset[Batch]):
    """Batches of one or more parts, numbered one after the other.

    An item is asked for either by its number (no augmentation) or by (number, key), where the key decides everything
    random about it; so workers need no random state and a resumed run sees the same pictures.

    Args:
        parts: The real part, the synthetic part, or both.
        transform: Augmentation and normalisation.
    """

    def __init__(self, parts: Sequence[Part], transform: Transform) -> None:
        self.parts = list(parts)
        self.transform = transform
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        """Returns the number of pictures in all parts."""
        return int(self._starts[-1])

    def __getitem__(self, item: Item) -> Batch:
        """Returns one sample: the batch of size 1 without its first dimension."""
        return {key: value[0] for key, value in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Fetches a batch.

        Args:
            items: Numbers, or (number, key) pairs.

        Returns:
            `image` float32 [B, 3, S, S] normalised; `label`, `bias` (-1 unknown), `index` (position in the part)
            int64 [B]; `synthetic` bool [B]; `weight` float32 [B] where a part has weights.
        """
        numbers = np.array([item[0] if isinstance(item, tuple) else item for item in items], dtype=np.int64)
        keys = None
        if items and isinstance(items[0], tuple):
            keys = np.array([item[1] for item in items if isinstance(item, tuple)], dtype=np.uint64)
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        index = numbers - self._starts[which]
        images, label, bias = self._fetch(which, index)
        synthetic = np.array([part.synthetic for part in self.parts])[which]
        batch = {
            "image": self.transform(images, keys),
            "label": torch.from_numpy(label),
            "bias": torch.from_numpy(bias),
            "index": torch.from_numpy(index),
            "synthetic": torch.from_numpy(synthetic),
        }
        if any(part.weights is not None for part in self.parts):
            weight = np.ones(len(index), dtype=np.float32)
            for number, part in enumerate(self.parts):
                if part.weights is not None:
                    weight[which == number] = part.weights[index[which == number]]
            batch["weight"] = torch.from_numpy(weight)
        return batch

    def _fetch(
        self, which: NDArray[np.int64], index: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        if len(self.parts) == 1:
            part = self.parts[0]
            return part.images.gather(index), part.labels[index], part.biases[index]
        pieces: list[NDArray[np.uint8]] = []
        rows: list[NDArray[np.int64]] = []
        label, bias = np.empty_like(index), np.empty_like(index)
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(which == number)
            if len(here):
                pieces.append(part.images.gather(index[here]))
                rows.append(here)
                label[here], bias[here] = part.labels[index[here]], part.biases[index[here]]
        images = np.empty((len(index), *pieces[0].shape[1:]), dtype=np.uint8)
        for here, piece in zip(rows, pieces, strict=True):
            images[here] = piece
        return images, label, bias
