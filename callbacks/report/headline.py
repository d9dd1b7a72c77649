"""What it came to: accuracy before and after, for one run and over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from callbacks.report.pictures import csv_uri
from callbacks.report.reading import RunRecord, StageResult, need_classifiers
from callbacks.table import METRICS, Group, cell

TITLES = {
    "accuracy": "Accuracy",
    "aligned": "Bias-aligned",
    "conflict": "Bias-conflicting",
    "worst_group": "Worst group",
    "balanced": "Mean of the groups",
}


@dataclass(frozen=True)
class Tile:
    """One value before and after, in 0..1.

    Attributes:
        title: What it is.
        before: Value of the first classifier, None where it is not known or there is only one.
        after: Value of the last classifier.
    """

    title: str
    before: float | None
    after: float


@dataclass(frozen=True)
class Cell:
    """One group of the test set.

    Attributes:
        accuracy: In 0..1, None where the group is empty.
        correct: How many are right.
        count: How many there are.
        aligned: Whether the bias attribute goes with the class; None where that is not known.
    """

    accuracy: float | None
    correct: int
    count: int
    aligned: bool | None


@dataclass(frozen=True)
class HeatMap:
    """Accuracy of every group under one classifier.

    Attributes:
        stage: Name of the classifier.
        biases: Names of the columns; () where the bias is not known, and a row has one cell.
        rows: Name of the class and its cells.
        csv: The numbers as a data URI.
    """

    stage: str
    biases: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]]
    csv: str


@dataclass(frozen=True)
class Headline:
    """What a run came to.

    Attributes:
        before: Name of the first classifier, None where there is only one.
        after: Name of the last one.
        tiles: The values that both have.
        heat_maps: One for each of the two.
        labelled: Whether the test set has bias labels.
    """

    before: str | None
    after: str
    tiles: list[Tile]
    heat_maps: list[HeatMap]
    labelled: bool


def headline(record: RunRecord, aligned_bias: Sequence[int] | None) -> Headline:
    """Describe what a run came to.

    Args:
        record: The run.
        aligned_bias: The bias attribute that goes with each class, where the data are at hand.

    Raises:
        NothingToShowError: No classifier of the chain was tested.
    """
    shown = need_classifiers(record)
    first, last = shown[0], shown[-1]
    labelled = bool({"aligned", "conflict"} & set(last.metrics))
    titles = TITLES if labelled else {"accuracy": "Accuracy", "worst_class": "Worst class"}
    if math.isclose(last.metrics.get("balanced", 0.0), last.metrics["accuracy"], abs_tol=1e-6):  # the groups are level
        titles = {name: title for name, title in titles.items() if name != "balanced"}
    tiles = [
        Tile(title, first.metrics.get(name) if first is not last else None, last.metrics[name])
        for name, title in titles.items()
        if name in last.metrics
    ]
    maps = [_heat_map(stage, aligned_bias) for stage in shown if stage.groups]
    return Headline(first.name if first is not last else None, last.name, tiles, maps, labelled)


def _heat_map(stage: StageResult, aligned_bias: Sequence[int] | None) -> HeatMap:
    classes = list(dict.fromkeys(group["label"] for group in stage.groups))
    if aligned_bias is not None and len(aligned_bias) != len(classes):  # other data than those of the run
        aligned_bias = None
    biases = [bias for bias in dict.fromkeys(group["bias"] for group in stage.groups) if bias is not None]
    rows: list[tuple[str, list[Cell]]] = [(name, []) for name in classes]
    for group in stage.groups:
        label, count = classes.index(group["label"]), group["count"]
        accuracy = group["correct"] / count if count else None
        known = aligned_bias is not None and group["bias"] is not None
        aligned = aligned_bias[label] == biases.index(group["bias"]) if known and aligned_bias is not None else None
        rows[label][1].append(Cell(accuracy, group["correct"], count, aligned))
    table = csv_uri(
        ["class", "bias", "correct", "count"],
        ([group["label"], group["bias"] or "", group["correct"], group["count"]] for group in stage.groups),
    )
    return HeatMap(stage.name, tuple(biases), rows, table)


@dataclass(frozen=True)
class ComparedRow:
    """One line of the comparison: a group of runs and a stage.

    Attributes:
        group: What tells the runs from others.
        stage: Name of the classifier.
        seeds: The seeds, ascending.
        cells: Mean ± sample standard deviation over the seeds, in per cent, in the order of ``METRICS``; the value
            alone where there is one seed.
    """

    group: str
    stage: str
    seeds: list[int]
    cells: list[str]


def compare(groups: Sequence[Group]) -> tuple[list[ComparedRow], str]:
    """Put runs side by side, first and last classifier of each with the weights of the last epoch.

    Args:
        groups: Runs that differ in their seed only, from :func:`callbacks.table.group_runs`.

    Returns:
        The lines, and the single values as a CSV data URI.
    """
    rows: list[ComparedRow] = []
    values: list[list[object]] = []
    for group in groups:
        lines = [line for line in group.rows(every_stage=True) if line[1] == "test"]
        for stage, _, found in lines if len(lines) < 3 else (lines[0], lines[-1]):
            seeds = [run.seed for run, _ in found]
            # one seed has no deviation
            cells = [cell([own.get(name) for _, own in found]).removesuffix(" ± -") for name in METRICS]
            rows.append(ComparedRow(group.name, stage, seeds, cells))
            values += [[group.name, run.seed, stage, *(own.get(name) for name in METRICS)] for run, own in found]
    return rows, csv_uri(["runs", "seed", "stage", *METRICS], values)
