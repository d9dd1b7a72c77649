"""The records of what a run has cost: a line a phase in ``emissions.jsonl``, and what a phase in progress leaves."""

import fcntl
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from callbacks.synthesis.files import append_lines, make_folder, mend_lines, read_json, read_lines, write_bytes

EMISSIONS = "emissions.jsonl"
OPEN = "emissions-open-{}.json"  # the phases that a node is in
Record = dict[str, Any]


def append_records(run_dir: Path, records: Sequence[Record]) -> None:
    """Append the records that are not there yet.

    Args:
        run_dir: The run folder.
        records: With the keys ``phase``, ``stage``, ``node`` and ``started``, which tell them apart.
    """
    make_folder(run_dir)
    path = run_dir / EMISSIONS
    with path.open("ab") as file:
        with suppress(OSError):  # some file systems of clusters know no locks
            fcntl.flock(file, fcntl.LOCK_EX)  # the nodes of a cluster end their phases at the same time
        there = {_key(record) for record in mend_lines(path)}
        append_lines(path, [record for record in records if _key(record) not in there])


def read_records(run_dir: Path) -> list[Record]:
    """Read the records of a run in their order; none without a file."""
    return read_lines(run_dir / EMISSIONS)


def write_open(run_dir: Path, node: int, records: Sequence[Record]) -> None:
    """Replace the records of the phases in progress; without any the file goes."""
    path = run_dir / OPEN.format(node)
    if not records:
        path.unlink(missing_ok=True)
        return
    make_folder(run_dir)
    write_bytes(path, json.dumps(list(records)).encode(), sync=False)


def recover(run_dir: Path, node: int | None = None) -> None:
    """Turn what killed attempts have left open into records.

    Args:
        run_dir: The run folder.
        node: Of which node; None of all, which no node may be using then.
    """
    for path in sorted(run_dir.glob(OPEN.format("*" if node is None else node))):
        append_records(run_dir, read_json(path))
        path.unlink()


class Total(TypedDict):
    """The sum of records.

    Attributes:
        kwh: Energy of all nodes, None where no record knows any.
        grams: CO2 equivalent of it, likewise.
        complete: Whether all records know them; the two are lower bounds otherwise.
        minutes: Time, see :func:`duration`.
    """

    kwh: float | None
    grams: float | None
    complete: bool
    minutes: float


def total(records: Sequence[Record]) -> Total:
    """Sum records up."""
    known = [record for record in records if record["kwh"] is not None]
    return {
        "kwh": sum(record["kwh"] for record in known) if known else None,
        "grams": sum(record["grams"] for record in known) if known else None,
        "complete": len(known) == len(records),
        "minutes": duration(records) / 60,
    }


def duration(records: Sequence[Record]) -> float:
    """Seconds of the node that took longest: the nodes of a cluster work side by side."""
    nodes: dict[int, float] = {}
    for record in records:
        nodes[record["node"]] = nodes.get(record["node"], 0.0) + record["seconds"]
    return max(nodes.values(), default=0.0)


def describe(costs: Total) -> str:
    """Put a sum into one line."""
    minutes = f"{costs['minutes']:.1f} minutes"
    if costs["kwh"] is None:
        return f"energy: not known, {minutes}"
    bound = "" if costs["complete"] else "at least "
    return f"energy: {bound}{costs['kwh']:.3g} kWh, {costs['grams']:,.1f} g CO2e, {minutes}"


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("phase", "stage", "node", "started"))
