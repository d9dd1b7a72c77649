"""Corrupting whole data sets, on all cores."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.corruptions import CORRUPTIONS, Corruption, Picture
from datamodules.corruptions.frost import frost
from datamodules.corruptions.pixels import SIDE
from datamodules.images import ImageFiles

CHUNK = 250
# a process has to earn its start, which takes some seconds
LEAST_PER_PROCESS = 5000
# to be raised when a corruption changes, so that what is kept on disks is made anew
VERSION = 1


@dataclass(frozen=True)
class Task:
    """Pictures and what is to be done to them.

    Attributes:
        images: uint8 [N, 32, 32, 3], or files, which are resized to 32 x 32.
        names: The corruption of each picture, a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seeds: int64 [N, K], not negative: a picture's row decides everything random about it.
        plates: Pictures of frost; drawn ones when None.
    """

    images: NDArray[np.uint8] | ImageFiles
    names: Sequence[str]
    severity: int
    seeds: NDArray[np.int64]
    plates: tuple[Picture, ...] | None = None

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.names)

    def chunks(self) -> Iterator["Task"]:
        """Yields the task in pieces."""
        for start in range(0, len(self), CHUNK):
            here = slice(start, start + CHUNK)
            images = self.images
            piece = images[here] if isinstance(images, np.ndarray) else images.select(range(len(images))[here])
            yield Task(piece, self.names[here], self.severity, self.seeds[here], self.plates)

    def run(self) -> NDArray[np.uint8]:
        """Returns the corrupted pictures, uint8 [N, 32, 32, 3]."""
        functions: dict[str, Corruption] = {**CORRUPTIONS, "frost": partial(frost, plates=self.plates)}
        done = np.empty((len(self), SIDE, SIDE, 3), dtype=np.uint8)
        for position, (name, seed) in enumerate(zip(self.names, self.seeds.tolist(), strict=True)):
            done[position] = functions[name](self._picture(position), self.severity, np.random.default_rng(seed))
        return done

    def _picture(self, position: int) -> Picture:
        if isinstance(self.images, np.ndarray):
            picture: Picture = self.images[position]
            return picture
        return np.asarray(self.images.open(position, SIDE))

    def fingerprint(self) -> str:
        """Returns a SHA-256 of all that decides the result; of files, the names and sizes stand for the content."""
        digest = hashlib.sha256(repr((VERSION, self.severity, list(self.names), self.seeds.tolist())).encode())
        for plate in self.plates or ():
            digest.update(repr(plate.shape).encode() + plate.tobytes())
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).data)
        else:
            folder = self.images.container.path
            for name in self.images.names:
                digest.update(f"{name} {(folder / name).stat().st_size}\n".encode())
        return digest.hexdigest()


def corrupt(tasks: Sequence[Task], processes: int | None = None) -> NDArray[np.uint8]:
    """Runs tasks, spread over processes; the result does not depend on their number.

    Rank 0 shows a progress bar where there is a terminal.

    Args:
        tasks: What is to be done.
        processes: Number of processes; None takes all cores, fewer where there is little to do.

    Returns:
        The pictures of all tasks, uint8 [N, 32, 32, 3].

    Raises:
        ConfigError: A file is broken.
    """
    total = sum(map(len, tasks))
    if processes is None:
        processes = min(_cores(), total // LEAST_PER_PROCESS)
    chunks = (chunk for task in tasks for chunk in task.chunks())
    if processes <= 1:
        return _collect(map(Task.run, chunks), total)
    # not forked from here: a copy of a process with threads or a GPU may hang
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_obey_parent) as pool:
        return _collect(pool.map(Task.run, chunks), total)


def _collect(pieces: Iterable[NDArray[np.uint8]], total: int) -> NDArray[np.uint8]:
    done = np.empty((total, SIDE, SIDE, 3), dtype=np.uint8)
    hidden = None if getattr(rank_zero_only, "rank", 0) == 0 else True  # None: only on a terminal
    with tqdm(total=total, desc="corrupting", unit=" images", disable=hidden) as bar:
        start = 0
        for piece in pieces:
            done[start : start + len(piece)] = piece
            start += len(piece)
            bar.update(len(piece))
    return done


def _cores() -> int:
    # a container or a scheduler may grant fewer than the machine has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _obey_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
