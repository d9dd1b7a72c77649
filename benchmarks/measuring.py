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


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Do the same work in several ways, in turns (A B A B ...), after one round that is not counted.

    Args:
        ways: Name to work.
        rounds: How often each way is timed.

    Returns:
        Name to seconds, one number a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            gc.collect()  # else one way pays for the rubbish of the other
            start = time.perf_counter()
            work()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(numerator: list[float], denominator: list[float]) -> tuple[float, str]:
    """Ratio of two series that were taken in turns.

    Args:
        numerator: Seconds of each round.
        denominator: Seconds of the same rounds.

    Returns:
        Median over the rounds of the ratio within the round, which a slow drift of the machine leaves alone; and a text
        with the quartiles of these ratios.
    """
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return median(ratios), f"quartiles of {len(ratios)} rounds {low:.3f} to {high:.3f}"


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
            print(f"{row.what:<72} {value:>10} {row.unit:<14} {ratio:>8} {row.target}")
