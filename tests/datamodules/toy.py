"""A tiny data module: random pictures of three classes in memory."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules import DebiasDataModule, Samples
from datamodules.samples import Split
from tests.generators import write_synthetic

NAMES = ("a", "b", "c")


class Pictures(DebiasDataModule):
    """Random pictures in memory, `train[c]` and `test[c]` of class c in the sets; every fifth is in conflict."""

    def __init__(
        self,
        train: tuple[int, ...] = (20, 10, 8),
        with_val: bool = False,
        test: tuple[int, ...] = (4, 4, 4),
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"image_size": 16, "batch_size": 8, **kwargs})
        self.counts = {"train": train, "val": test, "test": test}
        self.with_val = with_val
        self.loads: list[Split] = []

    @property
    def class_names(self) -> tuple[str, ...]:
        return NAMES

    @property
    def bias_names(self) -> tuple[str, ...]:
        return ("x", "y", "z")

    def load(self, split: Split) -> Samples | None:
        self.loads.append(split)
        if split == "val" and not self.with_val:
            return None
        labels = np.repeat(np.arange(3), self.counts[split])
        random = np.random.default_rng([self.seed, len(split)])
        images = random.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
        return Samples(images, labels, (labels + np.arange(len(labels)) % 5 // 4) % 3)


class Unlabelled(Pictures):
    """Pictures whose bias nobody knows."""

    bias_names = ()

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        return samples and Samples(samples.images, samples.labels, np.full(len(samples), -1))


class Described(Pictures):
    """Pictures of which every second has two texts, which name the sum of its pixels."""

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        if samples is None:
            return None
        assert isinstance(samples.images, np.ndarray)
        texts = [two_texts(image) if row % 2 else [] for row, image in enumerate(samples.images)]
        return Samples(samples.images, samples.labels, samples.biases, texts)

    def expected(self, split: Split, row: int) -> list[str]:
        """The texts that belong to an image, if it has any."""
        return two_texts(self._part(split).images.gather(np.array([row])))


def two_texts(image: NDArray[np.uint8]) -> list[str]:
    return [f"sum {image.sum()}", f"in all {image.sum()}"]


def make_both(tmp_path: Path, labels: tuple[int, ...] = (0, 1, 2, 2), **kwargs: Any) -> Pictures:
    """Pictures beside synthetic ones, of these labels, read from a folder."""
    module = Pictures(**kwargs)
    module.synthetic_dir = write_synthetic(tmp_path / "synthetic", labels, NAMES, 20)
    module.source = "both"
    return module
