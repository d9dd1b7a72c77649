"""Side-by-side measurements: two ways to do the same work in turns, and one CSV a benchmark."""

import csv
import gc
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results/benchmarks"
PACKAGES = ("torch", "lightning", "diffusers", "transformers", "numpy")


@dataclass
class Row:
    """One line of a result: what was measured, and how it compares with the line it is compared to."""

    what: str
    value: float
    unit: str
    ratio: float | None = None
    target: str = ""


class Lap(NamedTuple):
    """Time of one round: by the clock on the wall, and of all CPU cores together in this process, in seconds."""

    wall: float
    cpu: float


class Watch:
    """Counts from its making, or from the last lap."""

    def __init__(self) -> None:
        self.lap()

    def lap(self) -> Lap:
        """Return the time since the last lap, when all that was queued for a GPU is done."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = Lap(time.perf_counter(), time.process_time())
        last, self._last = getattr(self, "_last", now), now
        return Lap(now.wall - last.wall, now.cpu - last.cpu)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Lap]]:
    """Do the same work in several ways, in turns (A B A B ...), after one round that is not counted.

    Args:
        ways: Name to work.
        rounds: How often each way is timed.

    Returns:
        Name to times, one a round.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            gc.collect()  # else one way pays for the rubbish of the other
            watch = Watch()
            work()
            if number > 0:
                laps[name].append(watch.lap())
    return laps


def seconds(laps: list[Lap]) -> float:
    """Median of the seconds by the clock on the wall."""
    return median(lap.wall for lap in laps)


def compare(numerator: list[Lap], denominator: list[Lap]) -> tuple[float, str]:
    """Ratio of two series that were taken in turns.

    Args:
        numerator: Times of each round.
        denominator: Times of the same rounds.

    Returns:
        Median over the rounds of the ratio within the round, which a slow drift of the machine leaves alone; and a text
        with the quartiles of these ratios, and with the median by CPU time, which other processes leave alone.
    """
    pairs = list(zip(numerator, denominator, strict=True))
    wall, cpu = [a.wall / b.wall for a, b in pairs], [a.cpu / b.cpu for a, b in pairs]
    low, _, high = quantiles(wall, n=4) if len(wall) > 1 else wall * 3
    return median(wall), f"{len(wall)} rounds, quartiles {low:.3f} to {high:.3f}, by CPU time {median(cpu):.3f}"


def name_on(name: str, device: torch.device) -> str:
    """Return the name of a benchmark's result, which says so if it is of a GPU."""
    return name if device.type == "cpu" else f"{name}_gpu"


def report(name: str, rows: list[Row], folder: Path = RESULTS) -> None:
    """Print the rows and write them to ``folder/name.csv``, with the number of threads and the versions.

    Args:
        name: Name of the benchmark.
        rows: What was measured.
        folder: Folder of the CSV.
    """
    versions = "; ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "value", "unit", "ratio", "target", "torch threads", "versions"])
        for row in rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            value = f"{row.value:.6g}"
            writer.writerow([row.what, value, row.unit, ratio, row.target, torch.get_num_threads(), versions])
            print(f"{row.what:<96} {value:>10} {row.unit:<12} {ratio:>8} {row.target}", flush=True)
