"""The order of the training samples: a pure function of seed and epoch, cut into equal shares for the ranks."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from datamodules.augment import sample_keys
from lightning_modules.errors import ConfigError

Mixing = Literal["concat", "weighted", "batch"]


def synthetic_per_batch(batch_size: int, share: float) -> int:
    """Number of synthetic images in every batch of the mixing `batch`.

    Args:
        batch_size: Samples in a batch of one process.
        share: Wished share of synthetic images, between 0 and 1.

    Returns:
        The rounded number; at least one image of either kind is in a batch.

    Raises:
        ConfigError: The batch is too small for the share.
    """
    count = round(batch_size * share)
    if not 0 < count < batch_size:
        raise ConfigError(
            f"data.synthetic_share={share} leaves a batch of data.batch_size={batch_size} with {count} synthetic "
            "images; change one of the two or use data.mixing=concat"
        )
    return count


def equal_weights(groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities with which all groups are drawn equally often.

    Args:
        groups: Group of every entry, shape [N].

    Returns:
        Probability of every entry, shape [N], sum 1.
    """
    weights = 1 / np.bincount(groups)[groups]
    return np.asarray(weights / weights.sum())


# Lightning replaces any sampler that is not a DistributedSampler and calls set_epoch on it before every epoch
class TrainSampler(DistributedSampler[tuple[int, int]]):
    """Shuffles, mixes and shards the training samples.

    `concat` visits every entry once. `weighted` draws as many entries with replacement, each synthetic with
    probability `share`. `batch` puts a fixed number of synthetic entries in every batch and visits every real entry
    once; the synthetic ones are passed through in shuffled rounds. Entries are numbers of the data set, may repeat.

    Sample j of the epoch's global order goes to rank j mod world_size (for `batch`: batch j). The end is
    filled up with samples from the start so that all ranks have equally many, and so that no last batch has a single
    sample, which batch normalisation cannot bear.

    Args:
        real: Entries of real images, shape [N].
        synthetic: Entries of synthetic images, shape [M], possibly empty.
        batch_size: Samples in a batch of one process.
        mixing: How the two kinds are mixed; without one of them all are the same shuffle of `concat`.
        share: Share of synthetic samples for `weighted` and `batch`, between 0 and 1.
        weights: Probabilities of the entries, real ones first, shape [N + M]: as many entries as there are are drawn
            with replacement. None visits every entry once. For `concat` only.
        seed: Seed of the run.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        real: NDArray[np.int64],
        synthetic: NDArray[np.int64],
        *,
        batch_size: int,
        mixing: Mixing = "concat",
        share: float = 0.5,
        weights: NDArray[np.float64] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.real = real
        self.synthetic = synthetic
        self.entries = np.concatenate([real, synthetic])
        super().__init__(range(len(self.entries)), num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.mixing: Mixing = mixing if len(real) and len(synthetic) else "concat"
        self.share = share
        self.weights = weights
        if self.mixing == "batch":
            self._per_batch = synthetic_per_batch(batch_size, share)
            batches = -(-len(real) // (batch_size - self._per_batch))
            self._batches = -(-batches // world_size) * world_size
            self.num_samples = self._batches // world_size * batch_size
        else:
            self.num_samples = -(-len(self.entries) // world_size)
            if self.num_samples > batch_size > 1 and self.num_samples % batch_size == 1:
                self.num_samples += 1
        self.total_size = self.num_samples * world_size

    def __len__(self) -> int:
        """Returns the number of samples of this rank in an epoch."""
        return int(self.num_samples)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's global order.

        Args:
            epoch: Epoch number, from 0.

        Returns:
            Entries, shape [len(self) * world_size]; for `batch`, whole batches follow one another.
        """
        random = np.random.default_rng([self.seed, epoch])
        if self.weights is not None:
            return self.entries[random.choice(len(self.entries), size=self.total_size, p=self.weights)]
        if self.mixing == "weighted":
            synthetic = random.random(self.total_size) < self.share
            drawn = self.real[random.integers(len(self.real), size=self.total_size)]
            drawn[synthetic] = self.synthetic[random.integers(len(self.synthetic), size=int(synthetic.sum()))]
            return drawn
        if self.mixing == "batch":
            needed = self._batches * self._per_batch
            rounds = [random.permutation(self.synthetic) for _ in range(-(-needed // len(self.synthetic)))]
            synthetic_rows = np.concatenate(rounds)[:needed].reshape(self._batches, self._per_batch)
            real_shape = (self._batches, self.batch_size - self._per_batch)
            # np.resize starts over at the beginning when the entries do not fill the last batch
            real_rows = np.resize(random.permutation(self.real), real_shape)
            return np.concatenate([real_rows, synthetic_rows], axis=1).ravel()
        return np.resize(random.permutation(self.entries), self.total_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields (entry, key) of this rank's samples; the key decides the augmentation of the sample."""
        order = self.order(self.epoch)
        positions = np.arange(self.total_size)
        # what is dealt out in turn: single samples, or whole batches when their composition is fixed
        unit = self.batch_size if self.mixing == "batch" else 1
        positions = positions.reshape(-1, unit)[self.rank :: self.num_replicas].ravel()
        keys = sample_keys(self.seed, self.epoch, positions)
        return iter(zip(order[positions].tolist(), keys.tolist(), strict=True))
