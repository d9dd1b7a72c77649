"""What all data modules share: splits, the batch contract, and the mixing of real and synthetic images."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augment import Augment, Padding, Transform
from datamodules.dataset import ArrayStore, Batch, FileStore, ImageDataset, Part
from datamodules.manifest import read_selection
from datamodules.samples import Entries, Samples, Split, carve
from datamodules.sampling import Mixing, TrainSampler, equal_weights, synthetic_per_batch
from datamodules.synthetic import SyntheticSet, match_groups
from lightning_modules.errors import ConfigError
from lightning_modules.metrics import GroupTable

log = logging.getLogger("diffubias")

Source = Literal["real", "mined", "synthetic", "both"]
Balance = Literal["none", "class", "group"]


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


class DebiasDataModule(L.LightningDataModule, ABC):
    """Base of every data module.

    A subclass gives `class_names`, `load` and, where biases are known, `bias_names`. The rest is here. Bias attributes
    are numbered so that **bias == label means bias-aligned** and any other known bias is a conflict; a set whose
    attributes cannot be numbered so overrides `aligned_bias`.

    A batch is a dict: `image` float32 [B, 3, S, S] normalised; `label`, `bias` (-1 unknown) and `index` int64 [B];
    `synthetic` bool [B]. `index` is the position in the real training split (after validation was carved out of it),
    in the evaluated split, or among the synthetic images to train on, in the order of the manifest.

    Everything random about the training stream follows from (seed, epoch, position), so that a resumed run goes on with
    the same batches, and the order does not depend on the number of ranks.

    Args:
        batch_size: Samples in a batch of one process.
        num_workers: Loader processes; 0 is right for images in memory.
        image_size: Side of the square input, in pixels; pictures are squeezed to it, as the field's code does.
        seed: Seed of the data set: its splits and whatever of it is drawn. Order and augmentation of the training
            images follow from `order_seed`.
        val_fraction: Share of the training set that becomes the validation set (stratified by class) when the data set
            has none of its own.
        augment: Random changes of training images, see `datamodules.augment.Transform`.
        crop_padding: What `crop_flip` pads with, black or the mirrored picture.
        crop_scale: Least and greatest share of the area that the box of `resized_crop_flip` has.
        mean: Mean of each channel for the normalisation, range 0 to 1.
        std: Standard deviation of each channel.
        mixing: How real and synthetic images come together, see `datamodules.sampling.TrainSampler`.
        synthetic_share: Share of synthetic images for the mixings `weighted` and `batch`; one half when not given.
        mined_repeat: Our extension, not in the paper: when a stage trains on `both`, the mined real images come this
            many extra times an epoch. With a synthesis that only mines, this is the control that belongs beside
            DiffuBias.
        cache: Keep decoded pictures in memory, image_size * image_size * 3 bytes each, shared by the workers.
        balance: Draw the training images with replacement, so that all classes, or all groups (label, bias; real and
            synthetic ones apart), come equally often: the resampling baseline. `none` visits every image once an epoch.
        watch_test: Evaluate the test set at every validation too, as `watched/...`, to tell the best test value that
            papers report. Nothing is ever selected by it.
        synthetic_test: Share of the synthetic images of every group that no stage trains on; the test evaluates them
            apart, as `synthetic/...`.

    Attributes:
        mean: Mean of each channel that was taken from the images of a batch.
        std: Standard deviation that they were divided by.
        order_seed: Seed of the order and of the augmentation; None takes `seed`. The command line sets it to
            `seed_everything`, so that a sweep over seeds keeps the data as they are.
        source: What training reads; set for each stage of the chain.
        stage_augment: Random changes in place of `augment`; set for each stage of the chain.
        stage_batch_size: Training samples in a batch in place of `batch_size`; set for each stage of the chain.
        synthetic_dir: The folder with the manifest; set by the chain.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        image_size: int = 224,
        seed: int = 0,
        val_fraction: float = 0.1,
        augment: Augment = "crop_flip",
        crop_padding: Padding = "black",
        crop_scale: tuple[float, float] = (0.08, 1.0),
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        mixing: Mixing = "concat",
        synthetic_share: float | None = None,
        mined_repeat: int = 0,
        cache: bool = False,
        balance: Balance = "none",
        watch_test: bool = False,
        synthetic_test: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("image_size", image_size, 8),
            ("seed", seed, 0),
            ("mined_repeat", mined_repeat, 0),
        ):
            if value < least:
                raise ConfigError(f"data.{name}={value} is too small; give at least {least}")
        if not 0 <= synthetic_test < 1:
            raise ConfigError(f"data.synthetic_test={synthetic_test} must be at least 0 and below 1, such as 0.05")
        if not 0 < val_fraction < 1:
            raise ConfigError(f"data.val_fraction={val_fraction} must lie between 0 and 1")
        if min(std) <= 0:
            raise ConfigError(f"data.std={std} must be positive")
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ConfigError(f"data.crop_scale={crop_scale} must rise and lie between 0 and 1, such as [0.7, 1.0]")
        if synthetic_share is not None and mixing == "concat":
            raise ConfigError("data.synthetic_share has no effect with data.mixing=concat; set weighted or batch")
        if synthetic_share is not None and not 0 < synthetic_share < 1:
            raise ConfigError(f"data.synthetic_share={synthetic_share} must lie between 0 and 1")
        if balance != "none" and mixing != "concat":
            raise ConfigError(f"data.balance={balance} draws the images itself; leave data.mixing at concat")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.image_size = image_size
        self.seed = seed
        self.val_fraction = val_fraction
        self.mixing: Mixing = mixing
        self.synthetic_share = 0.5 if synthetic_share is None else synthetic_share
        self.mined_repeat = mined_repeat
        self.cache = cache
        self.balance: Balance = balance
        self.watch_test = watch_test
        self.synthetic_test = synthetic_test
        self.order_seed: int | None = None
        if mixing == "batch":
            synthetic_per_batch(batch_size, self.synthetic_share)
        self.source: Source = "real"
        self.synthetic_dir: Path | None = None
        self.mean = mean
        self.std = std
        self.stage_augment: Augment | None = None
        self.stage_batch_size: int | None = None
        self._random_transform = partial(Transform, mean, std, crop_padding=crop_padding, crop_scale=crop_scale)
        self._augment: Augment = augment
        self._plain_transform = Transform(mean, std)
        self._parts: dict[Split, Part] = {}
        self._repeated: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._balanced: NDArray[np.int64] | None = None

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
        """Reads the splits that a trainer needs; what was read before is kept, what another fit asked for is not."""
        if stage == "fit":
            self._repeated, self._balanced = self._repeated[:0], None
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
            counts = np.bincount(samples.labels, minlength=self.num_classes)
            empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
            if empty:
                raise ConfigError(
                    f"class {', '.join(map(repr, empty))} of {type(self).__name__} has no training sample; add images "
                    "or enlarge the training split"
                )
        if isinstance(samples.images, np.ndarray):
            store: ArrayStore | FileStore = ArrayStore(samples.images, self.image_size)
        else:
            store = FileStore(samples.images, self.image_size, self.cache)
        self._parts[split] = Part(store, samples.labels, samples.biases, texts=samples.texts)

    def train_labels(self) -> Tensor:
        """Returns the classes of the real training split, int64 [N]."""
        return torch.from_numpy(self._part("train").labels.copy())

    def train_biases(self) -> Tensor:
        """Returns the bias attributes of the real training split, int64 [N], -1 where unknown."""
        return torch.from_numpy(self._part("train").biases.copy())

    def train_table(self) -> Entries:
        """Returns the classes and bias attributes of everything that the present stage trains on."""
        labels, biases = self.train_labels(), self.train_biases()
        synthetic = self._synthetic_part()
        if synthetic is None:
            return Entries(labels, biases, len(labels))
        more = torch.from_numpy(synthetic.labels), torch.from_numpy(synthetic.biases)
        return Entries(torch.cat([labels, more[0]]), torch.cat([biases, more[1]]), len(labels))

    def repeat_entries(self, rows: Tensor, times: int) -> None:
        """Lets some real training images come several times an epoch of the present fit.

        To be called after `setup` and before `train_dataloader`, as in a module's `on_fit_start`.

        Args:
            rows: Positions in the real training split, int64 [M]; replaces what was asked for before.
            times: How often each comes, at least 1.
        """
        self._repeated = np.repeat(rows.cpu().numpy(), times - 1)

    def balance_entries(self, groups: Tensor) -> None:
        """Draws the entries of the present fit with replacement, so that all groups come equally often.

        To be called when `repeat_entries` is; goes before `balance`.

        Args:
            groups: A number for the group of each entry of `train_table`, int64 [N].
        """
        self._balanced = groups.cpu().numpy()

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

    @property
    def _synthetic(self) -> SyntheticSet | None:
        """The synthetic images of the chain, finished or not."""
        if self.synthetic_dir is None:
            return None
        return SyntheticSet(
            self.synthetic_dir, self.class_names, len(self.bias_names), self.image_size, self.cache,
            self.synthetic_test, self.seed,
        )  # fmt: skip

    def _synthetic_part(self) -> Part | None:
        """The synthetic images that the present stage trains on."""
        if self.source in ("real", "mined"):
            return None
        synthetic = self._synthetic
        if synthetic is None:
            raise ConfigError(
                f"a stage with data: {self.source} needs synthetic images; run it in a chain that makes them"
            )
        if self.source == "both" and self.mined_repeat and not synthetic.is_begun:
            log.info("nothing was synthesised: training on the real images, the mined ones repeated")
            return None
        return synthetic.split()[0]

    def _extra_mined(self) -> NDArray[np.int64]:
        repeated = self.mined_repeat if self.source == "both" else 0
        return np.tile(self._mined(), repeated) if repeated else np.empty(0, dtype=np.int64)

    def _mined(self) -> NDArray[np.int64]:
        """Positions of the mined images in the real training split."""
        if self.synthetic_dir is None:
            raise ConfigError("a stage with data: mined needs mined images; run it in a chain that mines before it")
        mined = np.array(read_selection(self.synthetic_dir), dtype=np.int64)
        size = len(self._part("train"))
        if mined.max(initial=-1) >= size:
            raise ConfigError(
                f"{self.synthetic_dir / 'selection.json'} names image {mined.max()} but the training split has {size}; "
                "it was made with other data settings, use a new run_dir"
            )
        return mined

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training batches; the manifest is read here, so that images made since `setup` are seen."""
        synthetic = self._synthetic_part()
        parts = [] if self.source == "synthetic" else [self._part("train")]
        first = sum(map(len, parts))
        own = self._mined() if self.source == "mined" else np.arange(first)
        repeated = self._repeated[np.isin(self._repeated, own)] if first else own
        real = np.concatenate([own, self._extra_mined(), repeated])
        parts += [] if synthetic is None else [synthetic]
        dataset = ImageDataset(parts, self._random_transform(augment=self.stage_augment or self._augment))
        rank, world_size = self._place()
        batch_size = self.stage_batch_size or self.batch_size
        sampler = TrainSampler(
            real,
            np.arange(first, len(dataset)),
            batch_size=batch_size,
            mixing=self.mixing,
            share=self.synthetic_share,
            weights=self._weights(parts, real),
            seed=self.seed if self.order_seed is None else self.order_seed,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(dataset, batch_size, sampler)

    def _weights(self, parts: list[Part], real: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Probability of each entry of the sampler where groups are balanced; None visits every entry once."""
        if self.balance == "none" and self._balanced is None:
            return None
        first = sum(len(part) for part in parts if not part.synthetic)
        count = sum(map(len, parts))
        chosen = np.concatenate([real, np.arange(first, count)])
        if self._balanced is not None:  # a stage on synthetic images alone has no real part
            return equal_weights((self._balanced if first else self._balanced[-count:])[chosen])
        if self.balance == "group" and not self.has_bias:
            raise ConfigError(
                f"data.balance=group needs bias labels and {type(self).__name__} has none; set data.balance to class"
            )
        labels, biases = (np.concatenate(arrays) for arrays in zip(*((p.labels, p.biases) for p in parts), strict=True))
        entries = Entries(torch.from_numpy(labels), torch.from_numpy(biases), 0)
        groups = (entries.labels if self.balance == "class" else entries.groups(len(self.bias_names))).numpy()
        if self.balance == "group":  # synthetic images are groups apart, as in the code of From Fake to Real
            groups = groups + (np.arange(len(groups)) >= first) * (groups.max() + 1)
        return equal_weights(groups[chosen])

    def _place(self) -> tuple[int, int]:
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (0, 1) if kwargs is None else (int(kwargs["rank"]), int(kwargs["num_replicas"]))

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
            **options,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Returns the validation batches, and with `watch_test` those of the test set as a second loader."""
        validation = self._loader(ImageDataset([self._part("val")], self._plain_transform))
        return [validation, self.predict_dataloader()] if self.watch_test else validation

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Returns the test batches, which are real; with `synthetic_test` those of synthetic images as a second loader.

        Before there are synthetic images there is one loader only.
        """
        real, synthetic = self.predict_dataloader(), self._synthetic
        if not self.synthetic_test or synthetic is None or not synthetic.is_finished:
            return real
        return [real, self._loader(ImageDataset([synthetic.split()[1]], self._plain_transform))]

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns the batches of the real test set."""
        return self._loader(ImageDataset([self._part("test")], self._plain_transform))

    @property
    def has_synthetic(self) -> bool:
        """Whether there is a finished set of synthetic images."""
        return self._synthetic is not None and self._synthetic.is_finished

    def probe_dataloaders(self, count: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        """Returns real validation images and synthetic images, as they are evaluated, equally many of every group.

        A group is a class and a bias attribute, or a class alone where no prompt named the attribute.

        Args:
            count: At most this many of a group and source. Synthetic images that no stage trains on come first choice.
        """
        assert self._synthetic is not None
        trained, held_out = self._synthetic.split()
        parts = self._part("val"), held_out if len(held_out) else trained
        rows = match_groups(*parts, len(self.bias_names), count, self.seed)
        real, synthetic = (
            self._loader(ImageDataset([part], self._plain_transform), sampler=chosen)
            for part, chosen in zip(parts, rows, strict=True)
        )
        return real, synthetic

    def split_labels(self, split: Split) -> tuple[Tensor, Tensor]:
        """Returns the class of every image of a real split and its bias attribute, -1 where unknown, int64 [N] each."""
        part = self._part(split)
        return torch.from_numpy(part.labels.copy()), torch.from_numpy(part.biases.copy())

    def split_texts(self, split: Split) -> Sequence[Sequence[str]] | None:
        """Returns the texts that describe each picture of a real split; None where the data have none."""
        return self._part(split).texts

    def chosen_dataloader(self, split: Split, rows: Sequence[int]) -> DataLoader[Batch]:
        """Returns some images of a real split, as they are evaluated.

        Args:
            split: Which split.
            rows: Positions in it, in the order in which the images come.
        """
        return self._loader(ImageDataset([self._part(split)], self._plain_transform), sampler=rows)

    def chosen_synthetic_dataloader(self, rows: Sequence[int]) -> DataLoader[Batch]:
        """Returns some synthetic images, as they are evaluated.

        Args:
            rows: Positions in the manifest; the `index` of a batch is the position among these rows.
        """
        assert self._synthetic is not None
        return self._loader(ImageDataset([self._synthetic.chosen(rows)], self._plain_transform))

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
