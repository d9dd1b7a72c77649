"""What is read: the splits of a data set, and the batches of them as they are evaluated."""

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augment import Transform
from datamodules.dataset import ArrayStore, Batch, FileStore, ImageDataset, Part
from datamodules.images import ImageFiles
from datamodules.samples import Samples, Split, carve
from datamodules.sampling import TrainSampler
from lightning_modules.errors import ConfigError
from lightning_modules.metrics import GroupTable

TITLES = {"train": "training", "val": "validation", "test": "test"}


def _place(files: ImageFiles) -> str:
    """Tells the folders of two sets of files apart, without naming them."""
    return hashlib.blake2b(os.fsencode(files.container.path.resolve()), digest_size=8).hexdigest()


def _as_it_is(batch: Any) -> Any:
    """The collate function: the data set already returns whole batches."""
    return batch


class Loader(DataLoader[Batch]):
    """A DataLoader whose workers' errors stay one line, as everywhere else."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields the batches."""
        try:
            yield from super().__iter__()
        except ConfigError as error:
            # torch puts the worker's whole traceback into the message; its last line is "module.ConfigError: message"
            raise ConfigError(str(error).strip().splitlines()[-1].split("ConfigError: ", 1)[-1]) from None


class SplitDataModule(L.LightningDataModule, ABC):
    """What a data module knows of its real pictures: splits, names, labels, and how they are evaluated.

    Args:
        batch_size: Samples in a batch of one process.
        num_workers: Loader processes; 0 is right for images in memory.
        image_size: Side of the square input, in pixels; pictures are squeezed to it, as the field's code does.
        seed: Seed of the data set: its splits and whatever of it is drawn. Order and augmentation of the training
            images follow from `order_seed` of `DebiasDataModule`.
        val_fraction: Share of the training set that becomes the validation set (stratified by class) when the data set
            has none of its own.
        mean: Mean of each channel for the normalisation, range 0 to 1.
        std: Standard deviation of each channel.
        cache: Keep decoded pictures in memory, image_size * image_size * 3 bytes each, shared by the workers.
        watch_test: Evaluate the test set at every validation too, as `watched/...`, to tell the best test value that
            papers report. Nothing is ever selected by it.

    Attributes:
        mean: Mean of each channel that was taken from the images of a batch.
        std: Standard deviation that they were divided by.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        image_size: int = 224,
        seed: int = 0,
        val_fraction: float = 0.1,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        cache: bool = False,
        watch_test: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("image_size", image_size, 8),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ConfigError(f"data.{name}={value} is too small; give at least {least}")
        if not 0 < val_fraction < 1:
            raise ConfigError(f"data.val_fraction={val_fraction} must lie between 0 and 1")
        if min(std) <= 0:
            raise ConfigError(f"data.std={std} must be positive")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.image_size = image_size
        self.seed = seed
        self.val_fraction = val_fraction
        self.mean = mean
        self.std = std
        self.cache = cache
        self.watch_test = watch_test
        self._plain_transform = Transform(mean, std)
        self._parts: dict[Split, Part] = {}
        self._keys: dict[Split, Tensor] = {}

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; position is label."""

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the bias attributes, () where they are not labelled; attribute i goes with class i."""
        return ()

    @property
    def aligned_bias(self) -> tuple[int, ...]:
        """The bias attribute that goes with each class; the class's own number unless a subclass says otherwise."""
        return tuple(range(self.num_classes))

    @abstractmethod
    def load(self, split: Split) -> Samples | None:
        """Reads one split; None for `val` when the data set has none, which is then carved out of `train`."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def has_bias(self) -> bool:
        """Whether bias attributes are labelled."""
        return bool(self.bias_names)

    def setup(self, stage: str | None = None) -> None:
        """Reads the splits that a trainer needs; what was read before is kept."""
        splits: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "val", "test") if self.watch_test else ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("test",),
            None: ("train", "val", "test"),
        }
        for split in splits[stage]:
            self._part(split)

    def _part(self, split: Split) -> Part:
        if split not in self._parts:
            if split == "test":
                self._keep("test", self.load("test"))
            else:
                train, val = self.load("train"), self.load("val")
                if train is not None and val is None:
                    inside, held_out = carve(train.labels, self.val_fraction, self.seed)
                    train, val = train.select(inside), train.select(held_out)
                self._keep("train", train)
                self._keep("val", val)
        return self._parts[split]

    def _keep(self, split: Split, samples: Samples | None) -> None:
        if samples is None or not len(samples):
            raise ConfigError(f"the {split} split of {type(self).__name__} has no sample; check the data settings")
        if split == "train":
            self._refuse_empty(samples.labels)
        if isinstance(samples.images, np.ndarray):
            store: ArrayStore | FileStore = ArrayStore(samples.images, self.image_size)
        else:
            store = FileStore(samples.images, self.image_size, self.cache)
        self._keys.pop(split, None)
        self._parts[split] = Part(store, samples.labels, samples.biases, texts=samples.texts)

    def _refuse_empty(self, labels: NDArray[np.int64]) -> None:
        """Refuses training images, by their labels, of which a class has none."""
        counts = np.bincount(labels, minlength=self.num_classes)
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        if empty:
            raise ConfigError(
                f"class {', '.join(map(repr, empty))} of {type(self).__name__} has no training sample; add images "
                "or enlarge the training split"
            )

    def state_dict(self) -> dict[str, Any]:
        """Tells in every checkpoint which files the network learns from; {} where the pictures are no files."""
        files = self._files_of("train")
        return {} if files is None else {"root": _place(files), "train": self._file_keys("train", files)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with other training images, and to test with images that the network learnt from.

        Sets that are held out by a seed are drawn anew where images are added or removed.

        Raises:
            ConfigError: The images are not those of the checkpoint, or are among its training images.
        """
        doing = None if self.trainer is None else self.trainer.state.fn
        if doing == TrainerFn.FITTING:
            self.refuse_others(state_dict)
        elif doing == TrainerFn.TESTING:
            self._refuse_learnt(state_dict, "test")
        elif doing == TrainerFn.VALIDATING:
            self._refuse_learnt(state_dict, "val")

    def _refuse_learnt(self, state_dict: dict[str, Any], split: Split) -> None:
        """Refuses a split with images that the network of a checkpoint learnt from."""
        files = self._files_of(split)
        if files is not None and state_dict["root"] == _place(files):
            keys = self._file_keys(split, files)
            if learnt := int(torch.isin(keys, state_dict["train"]).sum()):
                raise ConfigError(
                    f"data: the network learnt from {learnt} of the {len(keys)} {TITLES[split]} images; images were "
                    "added or removed, or data.seed is another one: put that back, or give splits of your own"
                )

    def refuse_others(self, state_dict: dict[str, Any]) -> None:
        """Refuses training images that are not those of a checkpoint.

        Args:
            state_dict: What the checkpoint has of the data; see `state_dict`.

        Raises:
            ConfigError: There are others, or their order is another one.
        """
        files = self._files_of("train")
        if files is None:
            return
        keys, known = self._file_keys("train", files), state_dict["train"]
        if torch.equal(keys, known):
            return
        new, gone = (int((~torch.isin(*pair)).sum()) for pair in ((keys, known), (known, keys)))
        raise ConfigError(
            f"data: the training images are not those that this run began with ({new} are new, {gone} are missing); "
            "put them back, or give another --run_dir"
        )

    def _file_keys(self, split: Split, files: ImageFiles) -> Tensor:
        """A number for the name of every file of a split, int64 [N]."""
        if split not in self._keys:
            digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in files.names)
            self._keys[split] = torch.frombuffer(bytearray(digests), dtype=torch.int64)
        return self._keys[split]

    def _files_of(self, split: Split) -> ImageFiles | None:
        """The files of a split; None where its pictures are no files."""
        store = self._part(split).images
        return store.files if isinstance(store, FileStore) else None

    def train_labels(self) -> Tensor:
        """Returns the classes of the real training split, int64 [N]."""
        return torch.from_numpy(self._part("train").labels.copy())

    def train_biases(self) -> Tensor:
        """Returns the bias attributes of the real training split, int64 [N], -1 where unknown."""
        return torch.from_numpy(self._part("train").biases.copy())

    def split_labels(self, split: Split) -> tuple[Tensor, Tensor]:
        """Returns the class of every image of a real split and its bias attribute, -1 where unknown, int64 [N] each."""
        part = self._part(split)
        return torch.from_numpy(part.labels.copy()), torch.from_numpy(part.biases.copy())

    def split_texts(self, split: Split) -> Sequence[Sequence[str]] | None:
        """Returns the texts that describe each picture of a real split; None where the data have none."""
        return self._part(split).texts

    def group_scores(self, table: GroupTable) -> dict[str, Tensor]:
        """Further values of an evaluated split, by its group counts.

        Args:
            table: Counts of the groups; without bias labels a group is a class.

        Returns:
            `adjusted`, the accuracies of the groups weighted by their shares of the training set (the average of the
            GroupDRO papers, arXiv 1911.08731), where the training set has bias labels and was read; in [0, 1].
        """
        if not self.has_bias or "train" not in self._parts:  # a test alone does not read the training set for this
            return {}
        labels, biases = self.train_labels(), self.train_biases()
        width = int(table.bias.max()) + 1
        known = (biases >= 0) & (biases < width)
        shares = torch.bincount(labels[known] * width + biases[known], minlength=len(table.count)).float()
        shares = shares * (table.count > 0)
        if shares.sum() == 0:
            return {}
        return {"adjusted": (table.accuracy.nan_to_num() * shares).sum() / shares.sum()}

    def source_image(self, index: int) -> Image.Image:
        """Reads one picture of the real training split as it is, neither resized nor augmented.

        Args:
            index: Position in the training split, the `index` of a batch.

        Returns:
            The picture in mode RGB.
        """
        return self._part("train").images.original(index)

    def _loader(
        self, dataset: ImageDataset, batch_size: int | None = None, sampler: Sequence[int] | TrainSampler | None = None
    ) -> DataLoader[Batch]:
        options: dict[str, Any] = {} if sampler is None else {"sampler": sampler}
        return Loader(
            dataset,
            batch_size=batch_size or self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # a worker that is not forked would have a cache of its own; elsewhere forking is not safe
            multiprocessing_context="fork" if self.num_workers and sys.platform == "linux" else None,
            **options,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Returns the validation batches, and with `watch_test` those of the test set as a second loader."""
        validation = self._loader(ImageDataset([self._part("val")], self._plain_transform))
        return [validation, self.predict_dataloader()] if self.watch_test else validation

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Returns the test batches."""
        return self.predict_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns the batches of the real test set."""
        return self._loader(ImageDataset([self._part("test")], self._plain_transform))

    def chosen_dataloader(self, split: Split, rows: Sequence[int]) -> DataLoader[Batch]:
        """Returns some images of a real split, as they are evaluated.

        Args:
            split: Which split.
            rows: Positions in it, in the order in which the images come.
        """
        return self._loader(ImageDataset([self._part(split)], self._plain_transform), sampler=rows)

    def mining_dataloader(self, rank: int, world_size: int, batch_size: int | None = None) -> DataLoader[Batch]:
        """Returns one rank's share of the whole real training split, as it is evaluated.

        Args:
            rank: This process.
            world_size: Number of processes.
            batch_size: Samples in a batch; that of training when not given.

        Returns:
            The images rank, rank + world_size, ... in this order, without augmentation and without padding.
        """
        part = self._part("train")
        share = range(rank, len(part), world_size)
        return self._loader(ImageDataset([part], self._plain_transform), batch_size, share)
