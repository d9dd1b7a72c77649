"""Corrupted CIFAR-10: ten classes of objects, each photographed under one typical corruption."""

import hashlib
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.cache import kept, one_at_a_time
from datamodules.corruptions.build import Task, corrupt
from datamodules.corruptions.frost import read_plates
from datamodules.corruptions.pixels import SIDE
from datamodules.images import Container, ImageFiles
from datamodules.rebuilt import Rebuilt
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

Pairing = Literal["release", "type0", "type1"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# the corruption that goes with each class
PAIRINGS: dict[Pairing, tuple[str, ...]] = {
    "release": (
        "snow",
        "frost",
        "defocus blur",
        "brightness",
        "contrast",
        "spatter",
        "glass blur",
        "jpeg",
        "pixelate",
        "saturate",
    ),
    "type0": (
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "spatter",
        "elastic",
        "jpeg",
        "pixelate",
        "saturate",
    ),
    "type1": (
        "gaussian noise",
        "shot noise",
        "impulse noise",
        "speckle noise",
        "gaussian blur",
        "defocus blur",
        "glass blur",
        "motion blur",
        "zoom blur",
        "original",
    ),
}
SPLITS: tuple[Split, ...] = ("train", "val", "test")
STRONGEST = 5
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
BATCHES = "cifar-10-batches-py"
ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html"
RELEASE = "https://github.com/kakaoenterprise/Learning-Debiased-Disentangled"


class CorruptedCIFAR10(Rebuilt):
    """Corrupted CIFAR-10 as in Learning from Failure (Nam et al., NeurIPS 2020): the corruption is the bias.

    It is built from CIFAR-10, either the Python version (https://www.cs.toronto.edu/~kriz/cifar.html or
    `data.download=true`) or class folders::

        root/cifar-10-batches-py/{data_batch_1 ... data_batch_5, test_batch, batches.meta}
        root/{train,test}/<class>/*.png

    Corruption i goes with class i. Corruptions are assigned as `datamodules.biased_split.assign` does; the two layouts
    have other orders of the files and give two different sets. 5,000 of the 50,000 training images (stratified, by
    seed) are the validation set, as biased as the training set. In the test set corruption and class are independent:
    1,000 of the 10,000 images are aligned. The 45,000 training images hold 227, 450, 900 and 2,250 conflict images for
    the four shares; Table 5 of DiffuBias (arXiv 2411.16079) counts 228, 442, 887 and 2,242 in the released files, among
    45,060, 44,969, 45,032 and 45,062 images.

    The corruptions and their parameters are those of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019). The photographs
    of frost are not shipped: without `frost_dir` the frost is **drawn**, of about the same colours and grain. Motion
    blur, also that of snow, follows ImageMagick's method without using it. Drops of water (spatter below severity 4)
    have exact distances where the original has OpenCV's approximation. Which severity the released files have is not
    documented.

    Building takes all cores, once. The result (184 MB) is kept below `cache_dir`, one file for each choice of settings,
    and checked whenever it is read.

    Or the released files are read, where root holds them and none of `conflict_ratio`, `pairing`, `severity` and
    `frost_dir` is given (https://github.com/kakaoenterprise/Learning-Debiased-Disentangled)::

        root/cifar10c/{0.5pct,1pct,2pct,5pct}/{align,conflict}/<class>/<name>_<class>_<corruption>.png
                                             /valid/...
        root/cifar10c/test/<class>/<name>_<class>_<corruption>.png    (numbers; or all without the folder cifar10c)

    Args:
        root: The folder of the files.
        pairing: Which corruption goes with which class. `release`: snow, frost, defocus blur, brightness, contrast,
            spatter, glass blur, jpeg, pixelate, saturate, as DiffuBias lists them. `type0`, of Learning from Failure:
            the same with fog for birds and elastic for frogs. `type1`, of the same: noise (gaussian, shot, impulse,
            speckle), blur (gaussian, defocus, glass, motion, zoom) and original.
        severity: Severity of every corruption, 1 to 5; severity s of Learning from Failure is s + 1 here.
        frost_dir: Folder of the photographs of frost; the first five by name are used. The PyPI package
            `imagecorruptions` has them in its folder `frost`.
        cache_dir: Where built sets are kept; root/corrupted when not given. Where it cannot be written, the set is
            built in memory at every start.
        image_size: Side of the input, in pixels.
        mean: Mean of each channel (CIFAR-10's).
        std: Standard deviation of each channel (CIFAR-10's).
        **kwargs: Arguments of `Rebuilt` and `DebiasDataModule`.
    """

    RELEASE: ClassVar[str] = "cifar10c"
    VAL_SHARE: ClassVar[float] = 1 / 10  # 5,000 of the 50,000 training images

    def __init__(
        self,
        root: Path,
        *,
        pairing: Pairing = "release",
        severity: int = STRONGEST,
        frost_dir: Path | None = None,
        cache_dir: Path | None = None,
        image_size: int = SIDE,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, mean=mean, std=std, **kwargs)
        if not 1 <= severity <= STRONGEST:
            raise ConfigError(f"data.severity={severity} must be 1 to {STRONGEST}")
        self.pairing: Pairing = pairing
        self.severity = severity
        self.frost_dir = None if frost_dir is None else Path(frost_dir).expanduser()
        self.cache_dir = self.root / "corrupted" if cache_dir is None else Path(cache_dir).expanduser()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of CIFAR-10."""
        return CLASSES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the corruptions; corruption i goes with class i."""
        return PAIRINGS[self.pairing]

    @property
    def _asks_for_release(self) -> bool:
        built = (self.pairing, self.severity, self.frost_dir)
        return super()._asks_for_release and built == ("release", STRONGEST, None)

    def prepare_data(self) -> None:
        """Fetches CIFAR-10 when that is wanted and needed, and builds the set; one process at a time does it."""
        if self._release is not None:
            return
        if self.download and not self._has_folders:
            self._fetch()  # torchvision looks by checksum whether everything is there
        _ = self._built

    def _build(self, split: Split) -> Samples:
        return self._built[split]

    @cached_property
    def _built(self) -> dict[Split, Samples]:
        splits = self._assigned()
        plates = None if self.frost_dir is None else read_plates(self.frost_dir)
        tasks = []
        for samples, seeds in splits.values():
            names = [PAIRINGS[self.pairing][bias] for bias in samples.biases.tolist()]
            tasks.append(Task(samples.images, names, self.severity, seeds, plates))
        images = kept(self._file(tasks), lambda: corrupt(tasks))
        pieces = np.split(images, np.cumsum([len(task) for task in tasks])[:-1])
        return {
            split: Samples(piece, samples.labels, samples.biases)
            for (split, (samples, _)), piece in zip(splits.items(), pieces, strict=True)
        }

    def _file(self, tasks: list[Task]) -> Path:
        share = self.percent if self.conflict_ratio is None else self.conflict_ratio
        digest = hashlib.sha256("".join(task.fingerprint() for task in tasks).encode()).hexdigest()
        # the settings are for the eye, the digest has all of them
        return self.cache_dir / f"{self.pairing}-{share}-severity{self.severity}-seed{self.seed}-{digest[:16]}.npz"

    def _assigned(self) -> dict[Split, tuple[Samples, NDArray[np.int64]]]:
        """The three splits with plain pictures, and the seeds of their pictures."""
        splits: dict[Split, tuple[Samples, NDArray[np.int64]]] = {}
        train, test = self._source("train"), self._source("test")
        for split in SPLITS:
            source = test if split == "test" else train
            positions = self._positions(split, source.labels)
            chosen = source.select(positions)
            # the number of the picture in its file counts, so that a picture does not depend on the split
            seeds = np.stack(np.broadcast_arrays(self.seed, int(split == "test"), positions), axis=1)
            splits[split] = (Samples(chosen.images, chosen.labels, self._biases(split, chosen.labels)), seeds)
        return splits

    def _source(self, split: Split) -> Samples:
        """CIFAR-10 without biases."""
        if (self.root / BATCHES).is_dir():
            return self._batches(split)
        if self._has_folders:
            return self._folders(split)
        raise ConfigError(
            f"data.root: {self.root} holds neither {BATCHES}/ nor train/ and test/; set data.download=true, or get "
            f"CIFAR-10 (Python version) from {ORIGIN} or the released Corrupted CIFAR-10 linked from {RELEASE}"
        )

    def _batches(self, split: Split) -> Samples:
        from torchvision.datasets import CIFAR10

        try:
            # it compares checksums, so that nothing but the true files is unpickled
            cifar10 = CIFAR10(str(self.root), train=split == "train")
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"data.root: {self.root / BATCHES} is incomplete or damaged; delete it and get CIFAR-10 (Python "
                f"version) again from {ORIGIN}"
            ) from error
        labels = np.array(cifar10.targets, dtype=np.int64)
        return Samples(cifar10.data, labels, np.full(len(labels), -1))

    @property
    def _has_folders(self) -> bool:
        return (self.root / "train").is_dir() and (self.root / "test").is_dir()

    def _folders(self, split: Split) -> Samples:
        container = Container(self.root)
        names = [container.names([f"{split}/{name}/"]) for name in CLASSES]
        empty = [name for name, files in zip(CLASSES, names, strict=True) if not files]
        if empty:
            raise ConfigError(f"data.root: {self.root} has no image below {split}/{empty[0]}/; unpack CIFAR-10 again")
        labels = np.repeat(np.arange(len(CLASSES)), [len(files) for files in names])
        return Samples(ImageFiles(container, [*chain(*names)]), labels, np.full(len(labels), -1))

    def _fetch(self) -> None:
        from torchvision.datasets import CIFAR10

        try:
            with one_at_a_time(self.root):  # what another process has fetched meanwhile is not fetched again
                CIFAR10(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"data.download: cannot fetch CIFAR-10 ({' '.join(str(error).split())}); get the Python version from "
                f"{ORIGIN} and unpack it in {self.root}"
            ) from error
