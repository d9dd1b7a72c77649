"""The synthetic images of a run: those to train on, those to test on, and those that match real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.dataset import FileStore, Part
from datamodules.images import Container, ImageFiles
from datamodules.manifest import MANIFEST, read_manifest
from datamodules.samples import Samples, carve

# up to this side (in pixels) synthetic images are kept in memory without being asked: 100,000 of them take 1.2 GB
SMALL = 64


@dataclass(frozen=True)
class SyntheticSet:
    """A finished set; the manifest is read anew by every method, so that images made in the meantime are seen.

    Attributes:
        directory: The folder with the manifest.
        class_names: The classes that it must be of.
        bias_names: The bias attributes that its prompts may ask for; () where they have no names.
        image_size: Side of the images of a batch, in pixels.
        cache: Keep decoded images in memory, whatever their size.
        test_share: Share of every group that no stage trains on.
        seed: Seed of the choice of these.
    """

    directory: Path
    class_names: tuple[str, ...]
    bias_names: tuple[str, ...]
    image_size: int
    cache: bool
    test_share: float
    seed: int

    @property
    def is_finished(self) -> bool:
        """Whether the manifest is there, which is written last."""
        return (self.directory / MANIFEST).is_file()

    @property
    def is_begun(self) -> bool:
        """Whether the manifest or images are there."""
        return self.is_finished or (self.directory / "images").exists()

    def split(self) -> tuple[Part, Part]:
        """Returns the images to train on and those to test on, each in the order of the manifest."""
        samples, weights = self._samples()
        every = np.arange(len(samples))
        inside, held_out = every, every[:0]
        if self.test_share:
            groups = samples.labels * (len(self.bias_names) + 1) + samples.biases
            inside, held_out = carve(groups, self.test_share, self.seed)
        weighed = None if bool((weights == 1).all()) else weights[inside]
        return self._part(samples.select(inside), weighed), self._part(samples.select(held_out))

    def chosen(self, rows: Sequence[int]) -> Part:
        """Returns the images at some positions in the manifest, in this order."""
        return self._part(self._samples()[0].select(np.array(rows, dtype=np.int64)))

    def _samples(self) -> tuple[Samples, NDArray[np.float32]]:
        """All images and their weights in training, in the order of the manifest."""
        manifest = read_manifest(self.directory, self.class_names, self.bias_names)
        remedy = f"delete it and {self.directory / MANIFEST}, then run the same command again"
        files = ImageFiles(Container(self.directory), manifest.files, remedy)
        return Samples(files, manifest.labels, manifest.biases), manifest.weights

    def _part(self, samples: Samples, weights: NDArray[np.float32] | None = None) -> Part:
        assert not isinstance(samples.images, np.ndarray)
        store = FileStore(samples.images, self.image_size, self.cache or self.image_size <= SMALL)
        return Part(store, samples.labels, samples.biases, True, weights)


def match_groups(real: Part, synthetic: Part, num_biases: int, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose real and synthetic images, equally many of every group.

    A group is a class and a bias attribute, or a class alone where a synthetic image's attribute is not known.

    Args:
        real: Real images.
        synthetic: Synthetic images.
        num_biases: Number of bias attributes B.
        count: At most this many of a group and source.
        seed: Seed of the choice.

    Returns:
        Positions of the chosen real images and of the synthetic ones.
    """
    named = bool((synthetic.biases >= 0).all())
    parts = real, synthetic
    groups = [part.labels * (num_biases + 1) + (part.biases if named else 0) for part in parts]
    random = np.random.default_rng([seed, 0x70726F6265])
    rows: tuple[list[int], list[int]] = ([], [])
    for group in np.unique(groups[1]):
        own = [random.permutation(np.flatnonzero(numbers == group)) for numbers in groups]
        for chosen, found in zip(rows, own, strict=True):
            chosen.extend(found[: min(count, *map(len, own))].tolist())
    return rows
