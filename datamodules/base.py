"""What is trained on: real and synthetic images, how they are mixed, and how often each comes."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augment import Augment, Padding, Transform
from datamodules.dataset import Batch, ImageDataset, Part
from datamodules.manifest import read_selection
from datamodules.samples import Entries
from datamodules.sampling import Mixing, TrainSampler, equal_weights, synthetic_per_batch
from datamodules.splits import SplitDataModule
from datamodules.synthetic import SyntheticSet, match_groups
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

Source = Literal["real", "mined", "synthetic", "both"]
Balance = Literal["none", "class", "group"]


class DebiasDataModule(SplitDataModule):
    """Base of every data module.

    A subclass gives `class_names`, `load` and, where biases are known, `bias_names`. The rest is here and in
    `SplitDataModule`. Bias attributes are numbered so that **bias == label means bias-aligned** and any other known
    bias is a conflict; a set whose attributes cannot be numbered so overrides `aligned_bias`.

    A batch is a dict: `image` float32 [B, 3, S, S] normalised; `label`, `bias` (-1 unknown) and `index` int64 [B];
    `synthetic` bool [B]. `index` is the position in the real training split (after validation was carved out of it),
    in the evaluated split, or among the synthetic images to train on, in the order of the manifest.

    Everything random about the training stream follows from (seed, epoch, position), so that a resumed run goes on with
    the same batches, and the order does not depend on the number of ranks.

    Args:
        augment: Random changes of training images, see `datamodules.augment.Transform`.
        crop_padding: What `crop_flip` pads with, black or the mirrored picture.
        crop_scale: Least and greatest share of the area that the box of `resized_crop_flip` has.
        mixing: How real and synthetic images come together, see `datamodules.sampling.TrainSampler`.
        synthetic_share: Share of synthetic images for the mixings `weighted` and `batch`; one half when not given.
        mined_repeat: Our extension, not in the paper: when a stage trains on `both`, the mined real images come this
            many extra times an epoch. With a synthesis that only mines, this is the control that belongs beside
            DiffuBias.
        balance: Draw the training images with replacement, so that all classes, or all groups (label, bias; real and
            synthetic ones apart), come equally often: the resampling baseline. `none` visits every image once an epoch.
        synthetic_test: Share of the synthetic images of every group that no stage trains on; the test evaluates them
            apart, as `synthetic/...`.
        **kwargs: Arguments of `SplitDataModule`.

    Attributes:
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
        augment: Augment = "crop_flip",
        crop_padding: Padding = "black",
        crop_scale: tuple[float, float] = (0.08, 1.0),
        mixing: Mixing = "concat",
        synthetic_share: float | None = None,
        mined_repeat: int = 0,
        balance: Balance = "none",
        synthetic_test: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mined_repeat < 0:
            raise ConfigError(f"data.mined_repeat={mined_repeat} is too small; give at least 0")
        if not 0 <= synthetic_test < 1:
            raise ConfigError(f"data.synthetic_test={synthetic_test} must be at least 0 and below 1, such as 0.05")
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ConfigError(f"data.crop_scale={crop_scale} must rise and lie between 0 and 1, such as [0.7, 1.0]")
        if synthetic_share is not None and mixing == "concat":
            raise ConfigError("data.synthetic_share has no effect with data.mixing=concat; set weighted or batch")
        if synthetic_share is not None and not 0 < synthetic_share < 1:
            raise ConfigError(f"data.synthetic_share={synthetic_share} must lie between 0 and 1")
        if balance != "none" and mixing != "concat":
            raise ConfigError(f"data.balance={balance} draws the images itself; leave data.mixing at concat")
        self.mixing: Mixing = mixing
        self.synthetic_share = 0.5 if synthetic_share is None else synthetic_share
        self.mined_repeat = mined_repeat
        self.balance: Balance = balance
        self.synthetic_test = synthetic_test
        self.order_seed: int | None = None
        if mixing == "batch":
            synthetic_per_batch(self.batch_size, self.synthetic_share)
        self.source: Source = "real"
        self.synthetic_dir: Path | None = None
        self.stage_augment: Augment | None = None
        self.stage_batch_size: int | None = None
        self._random_transform = partial(
            Transform, self.mean, self.std, crop_padding=crop_padding, crop_scale=crop_scale
        )
        self._augment: Augment = augment
        self._repeated: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._balanced: NDArray[np.int64] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads the splits that a trainer needs; what another fit asked for is forgotten."""
        if stage == "fit":
            self._repeated, self._balanced = self._repeated[:0], None
        super().setup(stage)

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

    @property
    def _synthetic(self) -> SyntheticSet | None:
        """The synthetic images of the chain, finished or not."""
        if self.synthetic_dir is None:
            return None
        return SyntheticSet(
            self.synthetic_dir, self.class_names, self.bias_names, self.image_size, self.cache,
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

    def test_dataloader(self) -> EVAL_DATALOADERS:
        """Returns the test batches, which are real; with `synthetic_test` those of synthetic images as a second loader.

        Before there are synthetic images there is one loader only.
        """
        real, synthetic = self.predict_dataloader(), self._synthetic
        if not self.synthetic_test or synthetic is None or not synthetic.is_finished:
            return real
        return [real, self._loader(ImageDataset([synthetic.split()[1]], self._plain_transform))]

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

    def chosen_synthetic_dataloader(self, rows: Sequence[int]) -> DataLoader[Batch]:
        """Returns some synthetic images, as they are evaluated.

        Args:
            rows: Positions in the manifest; the `index` of a batch is the position among these rows.
        """
        assert self._synthetic is not None
        return self._loader(ImageDataset([self._synthetic.chosen(rows)], self._plain_transform))
