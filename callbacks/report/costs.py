"""Time, energy and memory of a run, phase by phase."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from callbacks.emissions_log import EMISSIONS, duration, total
from callbacks.report.charts import Chart, stacked_bars
from callbacks.report.missing import NothingToShowError
from callbacks.report.pictures import csv_uri
from callbacks.report.reading import RunRecord


@dataclass(frozen=True)
class Cost:
    """What one phase took, over all attempts and nodes.

    Attributes:
        phase: What was done.
        stage: In which stage.
        attempts: How many records there are.
        seconds: Time, of the node that took longest, over all attempts.
        kwh: Energy of all nodes; None where it could not be measured.
        grams: CO2 equivalent of it.
        memory: Greatest resident memory of a process, MiB; None where unknown.
        gpu_memory: Greatest memory allocated on a GPU, MiB; None where unknown.
    """

    phase: str
    stage: str
    attempts: int
    seconds: float
    kwh: float | None
    grams: float | None
    memory: float | None
    gpu_memory: float | None


@dataclass(frozen=True)
class Costs:
    """What a run took.

    Attributes:
        phases: What each phase took, in their order.
        total: All of them together.
        complete: Whether the energy of every record is known; the totals are lower bounds otherwise.
        factors: Grams of CO2 equivalent a kWh that were assumed.
        csv: The phases as a data URI.
    """

    phases: list[Cost]
    total: Cost
    complete: bool
    factors: list[float]
    csv: str


def costs(record: RunRecord) -> Costs:
    """Add up what a run took.

    Raises:
        NothingToShowError: Nothing was measured.
    """
    if not record.emissions:
        raise NothingToShowError(f"Nothing was measured: there is no {EMISSIONS} in this run folder.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in record.emissions:
        groups.setdefault((line["phase"], line.get("stage") or ""), []).append(line)
    phases = [_cost(phase, stage, own) for (phase, stage), own in groups.items()]
    factors = sorted(
        {float(line["grams_per_kwh"]) for line in record.emissions if line.get("grams_per_kwh") is not None}
    )
    header = ["phase", "stage", "attempts", "seconds", "kwh", "grams", "memory_mib", "gpu_memory_mib"]
    rows = (tuple(vars(own).values()) for own in phases)
    complete = total(record.emissions)["complete"]
    return Costs(phases, _cost("all", "", record.emissions), complete, factors, csv_uri(header, rows))


def compare_costs(records: Sequence[tuple[str, RunRecord]]) -> tuple[list[Chart], list[str]]:
    """Draw what several runs took, beside one another: minutes, and kWh and grams where they are known.

    Args:
        records: Title and record of every run.

    Returns:
        The charts, and sentences on what is not known.
    """
    measured = {name: costs(record) for name, record in records if record.emissions}
    if not measured:
        return [], []
    minutes = {name: _parts([(own.phase, own.seconds / 60) for own in its.phases]) for name, its in measured.items()}
    charts = [stacked_bars("Time of the runs", minutes, "minutes", "time.csv")]
    for title, unit, file, value in (
        ("Energy of the runs", "kWh", "energy.csv", attrgetter("kwh")),
        ("Emissions of the runs", "g CO₂e", "emissions.csv", attrgetter("grams")),
    ):
        known = {
            name: [(own.phase, value(own)) for own in its.phases if value(own) is not None]
            for name, its in measured.items()
        }
        if parts := {name: _parts(own) for name, own in known.items() if own}:
            charts.append(stacked_bars(title, parts, unit, file))
    gaps = {
        "Time and energy were not measured": [name for name, _ in records if name not in measured],
        "The energy of some phases is not known": [name for name, its in measured.items() if not its.complete],
    }
    return charts, [f"{what}: {', '.join(names)}." for what, names in gaps.items() if names]


def _cost(phase: str, stage: str, lines: list[dict[str, Any]]) -> Cost:
    sums = total(lines)
    return Cost(
        phase, stage, len(lines), duration(lines), sums["kwh"], sums["grams"],
        _most([line.get("memory_mib") for line in lines]), _most([line.get("gpu_memory_mib") for line in lines]),
    )  # fmt: skip


def _parts(values: list[tuple[str, float]]) -> dict[str, float]:
    """Add up the phases of all stages."""
    parts: dict[str, float] = {}
    for phase, value in values:
        parts[phase] = parts.get(phase, 0.0) + value
    return parts


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
