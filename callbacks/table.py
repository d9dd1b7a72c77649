"""Mean and standard deviation over seeds of what finished runs have reached: ``train.py table``. No heavy imports."""

import argparse
import csv
import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from callbacks.settings import flatten

METRICS = ("accuracy", "aligned", "conflict", "worst_group")
SELECTIONS = {"test": "last epoch", "best_validation": "best validation", "best_test": "best test*"}
# the folders of a run
OF_A_RUN = {"stages", "synthetic", "validate", "test", "predict", "fast_dev_run", "wandb"}
# a run may go on with others, but each process takes a batch of its own
PROCESSES = ("devices", "num_nodes")
FOOTNOTE = "*selected on the test set"
_SEED = re.compile(r"(^|[-_.])seed[-_=]?\d+$")


class OneLineArguments(argparse.ArgumentParser):
    """Parser that answers a mistake with one line, as the rest of the command line does."""

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong and leave with status 2."""
        self.exit(2, f"error: {message} (train.py {self.prog.rsplit(maxsplit=1)[-1]} -h)\n")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run folder.
        label: Its path, as far as it tells runs apart, without the seed.
        settings: What the run computes, as flat keys, without its seed.
        seed: The seed.
        results: The content of ``results.json``.
    """

    folder: Path
    label: str
    settings: dict[str, Any]
    seed: int
    results: dict[str, Any]

    @property
    def classifies(self) -> bool:
        """Whether there are test results; a captioner or a generator alone has none."""
        return bool(self.results["test"])

    def metrics(self, selection: str, stage: str) -> dict[str, float] | None:
        """Metrics in 0..1 of a stage with the weights of one selection, None where there are none."""
        found: dict[str, float] | None = self.results.get(selection, {}).get(stage)
        return found


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        name: What tells this group from the others.
        runs: The runs, by ascending seed, each seed once.
    """

    name: str
    runs: tuple[Run, ...]

    def rows(self, every_stage: bool) -> Iterator[tuple[str, str, list[tuple[Run, dict[str, float]]]]]:
        """Yield stage, selection, and the runs that have metrics for them."""
        stages = list(dict.fromkeys(stage for run in self.runs for stage in run.results["test"]))
        for stage in stages if every_stage else stages[-1:]:
            for selection in SELECTIONS:
                found = [(run, metrics) for run in self.runs if (metrics := run.metrics(selection, stage))]
                if found:
                    yield stage, selection, found


def find_runs(folders: Sequence[Path], base: Path | None = None) -> tuple[list[Run], list[Path]]:
    """Find the runs in some folders.

    Args:
        folders: Run folders, or folders with run folders anywhere below them.
        base: What the labels of the runs leave out of their paths; None takes it from the folders.

    Returns:
        Finished runs, and the folders of runs that are not finished.

    Raises:
        ValueError: A file of a run cannot be read.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        own = [Path(place) for place, names in _walk(folder) if "config.yaml" in names]
        start = folder.parent if len(folders) > 1 or own == [folder] else folder
        found |= {place.resolve(): (base or start).resolve() for place in own}
    finished = [place for place in found if (place / "results.json").is_file()]
    return [_read(place, found[place]) for place in sorted(finished)], sorted(set(found) - set(finished))


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[Run]]:
    """Put together the runs that differ in nothing but the seed.

    Args:
        runs: The runs.

    Returns:
        The groups by name, and the runs left out because another one has the same settings and the same seed.
    """
    same: dict[str, dict[int, Run]] = {}
    doubles = []
    for run in runs:
        seeds = same.setdefault(json.dumps(run.settings, sort_keys=True, default=str), {})
        if run.seed in seeds:
            doubles.append(run)
        else:
            seeds[run.seed] = run
    groups = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in same.values()]
    labels = [", ".join(dict.fromkeys(run.label for run in group)) for group in groups]
    names = []
    for group, label in zip(groups, labels, strict=True):
        namesakes = [other[0].settings for other, its in zip(groups, labels, strict=True) if its == label]
        name = label + _difference(group[0].settings, namesakes)
        names.append(name if name not in names else f"{name} ({_shown(group[0].folder)})")
    return sorted((Group(*pair) for pair in zip(names, groups, strict=True)), key=lambda group: group.name), doubles


def layout(groups: Sequence[Group], metrics: Sequence[str] = METRICS, every_stage: bool = False) -> str:
    """Lay out mean ± sample standard deviation over the seeds, in per cent.

    Args:
        groups: What to show.
        metrics: The columns.
        every_stage: Show all stages of each run, not only the last one.

    Returns:
        A line for each group, stage and selection of the weights; a dash where a value is not known: the deviation of
        one seed, or a metric that a set without bias labels does not have.
    """
    lines = [["test set, %", "stage", "weights", "seeds", *(metric.replace("_", " ") for metric in metrics)]]
    unlabelled = []
    for group in groups:
        for stage, selection, found in group.rows(every_stage):
            cells = [cell([row.get(metric) for _, row in found]) for metric in metrics]
            lines.append([group.name, stage, SELECTIONS[selection], str(len(found)), *cells])
            if any("worst_group" not in row for _, row in found):
                unlabelled.append(group.name)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(f"{cell:<{width}}" if place < 3 else f"{cell:>{width}}" for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    if any(line[2] == SELECTIONS["best_test"] for line in lines):
        text.append(FOOTNOTE)
    if unlabelled:
        names = ", ".join(dict.fromkeys(unlabelled))
        text.append(f"no bias labels in the test set of {names}: aligned, conflict and worst group cannot be told")
    return "\n".join(line.rstrip() for line in text)


def write_csv(path: Path, groups: Sequence[Group], metrics: Sequence[str], every_stage: bool) -> None:
    """Write one row for each run, stage, selection and metric; values in 0..1, no row where there is no value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["group", "run", "seed", "stage", "selection", "metric", "value"])
        for group in groups:
            for stage, selection, found in group.rows(every_stage):
                for run, row in found:
                    start = [group.name, _shown(run.folder), run.seed, stage, selection]
                    writer.writerows([*start, metric, row[metric]] for metric in metrics if metric in row)


def show(runs: Sequence[Run], unfinished: Sequence[Path], metrics: Sequence[str], every_stage: bool) -> list[Group]:
    """Print the table of some runs, and what it leaves out; return the groups that it shows."""
    groups, doubles = group_runs([run for run in runs if run.classifies])
    if groups:
        print(layout(groups, metrics, every_stage))
    if bare := [_shown(run.folder) for run in runs if not run.classifies]:
        print(f"left out, nothing in it classifies: {', '.join(bare)}")
    for run in doubles:
        print(f"left out: {_shown(run.folder)} has the settings and the seed of another run")
    if unfinished:
        print(f"left out, not finished: {', '.join(map(_shown, unfinished))}")
    return groups


def main(words: Sequence[str]) -> int:
    """Run ``train.py table``.

    Args:
        words: The arguments after ``table``.

    Returns:
        The exit status.
    """
    parser = OneLineArguments(
        prog="train.py table",
        description="Print mean ± sample standard deviation over seeds of the test results of finished runs. Runs that"
        " differ in nothing but the seed make one line; a dash stands where a value is not known.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders of them")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the single values too, one in a row")
    parser.add_argument(
        "--metric", nargs="+", default=list(METRICS), metavar="NAME",
        help=f"the columns, default {' '.join(METRICS)}; results.json has more, such as balanced",
    )  # fmt: skip
    parser.add_argument("--stages", choices=("last", "all"), default="last", help="the stages of each run")
    arguments = parser.parse_args(words)
    for folder in arguments.folders:
        if not folder.exists():
            parser.error(f"there is no folder {folder}; give run folders, or folders of them")
    try:
        runs, unfinished = find_runs(arguments.folders)
    except ValueError as error:
        parser.error(str(error))
    if not runs:
        parser.error(f"no finished run in {', '.join(map(str, arguments.folders))}; run fit to its end first")
    known = sorted({name for run in runs for row in run.results["test"].values() for name in row})
    if unknown := [name for name in arguments.metric if name not in {*known, *METRICS}]:
        parser.error(f"--metric: no run has {', '.join(unknown)}; there are {', '.join(known)}")
    groups = show(runs, unfinished, arguments.metric, arguments.stages == "all")
    if arguments.csv is not None:
        try:
            write_csv(arguments.csv, groups, arguments.metric, arguments.stages == "all")
        except OSError as error:
            reason = f"{error.strerror}: {error.filename}"
            parser.error(f"--csv: {arguments.csv} cannot be written ({reason}); give another file")
    return 0


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Go through a folder, but not into the many files of a run; a sweep may have put runs below one of their names."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - OF_A_RUN if "config.yaml" in names else folders)
        yield place, names


def _read(folder: Path, base: Path) -> Run:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is one
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), loader)
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        settings = {key: value for key, value in flatten(config).items() if key != "seed_everything"}
        settings |= {key: config["trainer"].get(key) for key in PROCESSES}
        seed = int(results["seed"])
        results.setdefault("test", {})
    except (yaml.YAMLError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{folder} holds no run of ours ({text}); move it away or run fit there again") from error
    relative = folder.relative_to(base) if folder.is_relative_to(base) else Path(folder.name)
    parts = [part for part in (_SEED.sub("", part) for part in relative.parts) if part]
    return Run(folder, "/".join(parts) or base.name, settings, seed, results)


def _difference(settings: dict[str, Any], namesakes: Sequence[dict[str, Any]]) -> str:
    """The settings, up to four, by which a group differs from others of the same name."""
    keys = sorted({key for other in namesakes for key in settings | other if settings.get(key) != other.get(key)})
    shown = [f"{key.replace('.init_args', '')}={settings.get(key)}" for key in keys]
    return f" [{', '.join(shown[:4])}{', …' if len(shown) > 4 else ''}]" if shown else ""


def cell(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation of values in 0..1, in per cent; a dash for what is not known."""
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    deviation = f"{statistics.stdev(known):.1f}" if len(known) > 1 else "-"
    return f"{statistics.mean(known):.1f} ± {deviation}"


def _shown(folder: Path) -> str:
    """The path of a folder, from here where it is below."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
