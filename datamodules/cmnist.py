"""Coloured MNIST (CMNIST): ten digits, each drawn in one typical colour."""

import gzip
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.augment import Augment
from datamodules.cache import one_at_a_time
from datamodules.rebuilt import Rebuilt
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
COLOURS = (
    "vermilion",
    "yellow",
    "mauve",
    "pale green",
    "sky blue",
    "bright green",
    "blue",
    "purple",
    "dark green",
    "crimson",
)
# the mean colours of Learning from Failure (RGB, 0 to 1)
MEAN_COLOURS = np.array(
    [
        [0.983682, 0.312519, 0.168575],
        [0.990530, 0.915605, 0.351512],
        [0.672964, 0.461070, 0.579808],
        [0.783252, 0.831556, 0.601329],
        [0.088016, 0.777963, 0.981808],
        [0.321393, 0.961055, 0.446450],
        [0.024616, 0.235650, 0.758666],
        [0.555247, 0.101580, 0.761763],
        [0.207723, 0.392949, 0.018702],
        [0.833658, 0.202409, 0.266943],
    ]
)
ORIGIN = "https://ossci-datasets.s3.amazonaws.com/mnist"
RELEASE = "https://github.com/kakaoenterprise/Learning-Debiased-Disentangled"
FOLDERS = ("MNIST/raw", "raw", ".")
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class CMNIST(Rebuilt):
    """Coloured MNIST as in Learning from Failure (Nam et al., NeurIPS 2020): the colour of the digit is the bias.

    It is built in memory from the four files of MNIST, unpacked or as .gz (https://ossci-datasets.s3.amazonaws.com/mnist
    or `data.download=true`)::

        root/MNIST/raw/train-images-idx3-ubyte  train-labels-idx1-ubyte     (or root/raw/..., or root/...)
                       t10k-images-idx3-ubyte   t10k-labels-idx1-ubyte

    Digit i goes with colour i. Colours are assigned as `datamodules.biased_split.assign` does; an image has one colour,
    drawn around the mean colour, and its pixels are that colour times the grey value, on black. 5,000 of the 60,000
    training images (stratified, by seed) are the validation set, as biased as the training set. In the test set colour
    and digit are independent: 1,000 of the 10,000 images are aligned. The 55,000 training images hold 273, 551, 1,099
    and 2,749 conflict images for the four shares; Table 5 of DiffuBias (arXiv 2411.16079) counts 271, 546, 1,096 and
    2,746 in the released files, and 1,006 aligned test images.

    Or the released files are read, where root holds them and no other `conflict_ratio` is asked for
    (https://github.com/kakaoenterprise/Learning-Debiased-Disentangled)::

        root/cmnist/{0.5pct,1pct,2pct,5pct}/{align,conflict}/<digit>/<name>_<digit>_<colour>.png
                                           /valid/<name>_<digit>_<colour>.png
        root/cmnist/test/<digit>/<name>_<digit>_<colour>.png          (or all without the folder cmnist)

    Args:
        root: The folder of the files.
        std_colour: Standard deviation of the colours around their mean, in units of the range 0 to 1; not for the
            released files. Learning from Failure has 0.05, 0.02, 0.01, 0.005, 0.002 for its severities 1 to 5.
        image_size: Side of the input, in pixels.
        augment: Random changes of training images.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        **kwargs: Arguments of `Rebuilt` and `DebiasDataModule`.
    """

    RELEASE: ClassVar[str] = "cmnist"
    VAL_SHARE: ClassVar[float] = 1 / 12  # 5,000 of the 60,000 training images

    def __init__(
        self,
        root: Path,
        *,
        std_colour: float = 0.005,
        image_size: int = 28,
        augment: Augment = "none",
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, augment=augment, mean=mean, std=std, **kwargs)
        if not 0 <= std_colour <= 1:
            raise ConfigError(f"data.std_colour={std_colour} must lie between 0 and 1")
        self.std_colour = std_colour

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits."""
        return CLASSES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the colours; colour i goes with digit i."""
        return COLOURS

    def prepare_data(self) -> None:
        """Fetches MNIST when that is wanted and needed; one process at a time does it."""
        missing = [name for name in (*TRAIN_FILES, *TEST_FILES) if self._find(name) is None]
        if not self.download or not missing or self._release is not None:
            return
        from torchvision.datasets import MNIST

        try:
            with one_at_a_time(self.root):  # what another process has fetched meanwhile is not fetched again
                MNIST(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"data.download: cannot fetch MNIST ({' '.join(str(error).split())}); put the four files of {ORIGIN} "
                f"into {self.root}"
            ) from error

    def _build(self, split: Split) -> Samples:
        grey, labels = self._read(*(TEST_FILES if split == "test" else TRAIN_FILES))
        # drawn for the whole file, so that an image's shade does not depend on the split that it falls into
        jitter = np.random.default_rng([self.seed, int(split == "test")]).standard_normal((len(labels), 3))
        chosen = self._positions(split, labels)
        grey, labels, jitter = grey[chosen], labels[chosen], jitter[chosen]
        biases = self._biases(split, labels)
        colours = (MEAN_COLOURS[biases] + self.std_colour * jitter).clip(0, 1)
        return Samples(paint(grey, colours), labels, biases)

    def _find(self, name: str) -> Path | None:
        paths = (self.root / folder / f"{name}{suffix}" for folder in FOLDERS for suffix in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    def _read(self, *names: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        paths = [self._find(name) for name in names]
        if None in paths:
            raise ConfigError(
                f"data.root: {self.root} holds no {names[paths.index(None)]}[.gz]; set data.download=true, or get the "
                f"four files of MNIST from {ORIGIN} or the released CMNIST linked from {RELEASE}"
            )
        grey, labels = (read_idx(path) for path in paths if path is not None)
        if grey.ndim != 3 or grey.shape[:1] != labels.shape or labels.max(initial=0) >= len(CLASSES):
            raise ConfigError(
                f"data.root: {paths[0]} and {paths[1]} are not the images and the labels of MNIST; get them again from "
                f"{ORIGIN}"
            )
        return grey, labels.astype(np.int64)


def paint(grey: NDArray[np.uint8], colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours grey pictures on black.

    Args:
        grey: Pictures, shape [N, H, W], values 0 to 255.
        colours: One colour a picture, shape [N, 3], range 0 to 1.

    Returns:
        colour * grey value cut to an integer, uint8 [N, H, W, 3].
    """
    images = np.empty((*grey.shape, 3), dtype=np.uint8)
    for channel in range(3):
        # NumPy casts in small blocks, so no floating-point copy of the set is made
        shade = colours[:, channel, None, None]
        np.multiply(grey, shade, out=images[..., channel], casting="unsafe", dtype=np.float64)
    return images


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a file of MNIST's IDX format, packed with gzip or not.

    Args:
        path: The file.

    Returns:
        Its unsigned bytes in the shape that its header gives.

    Raises:
        ConfigError: The file is broken or of another format.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        # two zero bytes, the type (8 is unsigned byte), the number of dimensions, and each of them in four bytes
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("not an IDX file of unsigned bytes")
        shape = np.frombuffer(data, dtype=">u4", count=data[3], offset=4).tolist()
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ConfigError(
            f"data.root: cannot read {path} ({error}); delete it and get it again from {ORIGIN}"
        ) from error
