"""Finding broken image files before training starts rather than in the middle of it."""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datamodules.base import DebiasDataModule
from datamodules.dataset import FileStore, Part, Store
from datamodules.images import reason
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

log = logging.getLogger("diffubias")

Broken = Literal["error", "skip", "unchecked"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
CHUNK = 32  # images that a thread looks at before it reports


def find_broken(stores: Sequence[Store]) -> list[dict[int, str]]:
    """Fetches every picture once, in parallel threads; a caching store has them all decoded afterwards.

    The answer depends on the files alone, so every process that looks comes to the same one. Rank 0 shows a progress
    bar where there is a terminal.

    Args:
        stores: Where the pictures are.

    Returns:
        For each store the positions of the pictures that cannot be read, ascending, and why.
    """
    # decoders that threads load at the same moment are not always found
    Image.init()
    chunks = [
        (number, np.arange(start, min(start + CHUNK, len(store))))
        for number, store in enumerate(stores)
        for start in range(0, len(store), CHUNK)
    ]
    broken: list[dict[int, str]] = [{} for _ in stores]
    if not chunks:
        return broken
    disable = None if getattr(rank_zero_only, "rank", 0) == 0 else True  # None: only on a terminal
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=sum(map(len, stores)), desc="checking", unit=" images", disable=disable) as bar,
    ):
        found = pool.map(lambda chunk: _unreadable(stores[chunk[0]], chunk[1]), chunks)
        for (number, positions), bad in zip(chunks, found, strict=True):
            broken[number] |= bad
            bar.update(len(positions))
    return broken


def _unreadable(store: Store, positions: NDArray[np.int64]) -> dict[int, str]:
    found = {}
    for position in positions.tolist():
        try:
            store.gather(np.array([position]))
        except ConfigError as error:
            found[position] = reason(error.__cause__ or error)
    return found


class CheckedDataModule(DebiasDataModule):
    """Base of the data modules whose image files may be broken.

    Args:
        broken: What happens to files that cannot be decoded. All are read once before training: `error` names them and
            stops, `skip` leaves them out and says so; `unchecked` starts at once and stops where it meets one.
        **kwargs: Arguments of `DebiasDataModule`.
    """

    KEY: ClassVar[str]
    """The setting that says where the images are, for messages."""

    def __init__(self, *, broken: Broken = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.broken = broken
        self._checked: set[Split] = set()
        self._left_out: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Reads the splits that a trainer needs, for training all of them, and checks their files.

        Raises:
            ConfigError: The data are not as described, or files are broken.
        """
        # a broken test image should not show after hours of training
        super().setup(None if stage == "fit" else stage)
        if self.broken == "error":
            used: dict[str | None, tuple[Split, ...]] = {"validate": ("val",), "test": ("test",), "predict": ("test",)}
            self._check(used.get(stage, SPLITS))
        self._compare_ranks()

    def _part(self, split: Split) -> Part:
        super()._part(split)
        # what is left out changes the numbers of the images, so it has to be known before anybody sees one
        if self.broken == "skip":
            self._check(tuple(self._parts))
        return self._parts[split]

    def _check(self, splits: tuple[Split, ...]) -> None:
        """Looks for broken files in splits that were not looked at before."""
        stores = {split: self._store(split) for split in splits if split not in self._checked}
        broken = dict(zip(stores, find_broken([*stores.values()]), strict=True))
        found = [(stores[split].files, position, why) for split in stores for position, why in broken[split].items()]
        if found and self.broken == "error":
            some = ", ".join(files.where(position) for files, position, _ in found[:5]) + ", ..." * (len(found) > 5)
            many = len(found) > 1
            raise ConfigError(
                f"{self.KEY}: {len(found)} image{'s' * many} cannot be read: {some} ({'the first: ' * many}"
                f"{found[0][2]}); replace or delete what is broken, or set data.broken=skip"
            )
        for files, position, why in found:
            log.info("left out: %s (%s)", files.where(position), why)
        self._left_out += [files.names[position] for files, position, _ in found]
        self._checked.update(stores)
        for split, positions in broken.items():
            if positions:
                self._leave_out(split, positions)

    def _store(self, split: Split) -> FileStore:
        store = self._parts[split].images
        assert isinstance(store, FileStore)
        return store

    def _leave_out(self, split: Split, positions: Collection[int]) -> None:
        part, store = self._parts[split], self._store(split)
        rest = np.delete(np.arange(len(part)), [*positions])
        self._keep(split, Samples(store.files, part.labels, part.biases, part.texts).select(rest))
        self._store(split).take_over(store, rest)

    def _compare_ranks(self) -> None:
        if self.trainer is None or self.broken != "skip":
            return
        strategy = self.trainer.strategy
        same = strategy.broadcast(self._left_out) == self._left_out
        if not strategy.reduce_boolean_decision(same):
            raise ConfigError(
                f"{self.KEY}: the processes find different images broken, so the disk answers unreliably; copy the "
                "images to another one"
            )
