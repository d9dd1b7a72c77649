"""Results of experiments over seeds: every value as CSV, mean ± sd as a Markdown table."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

Row = Mapping[str, str | float]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV; the columns are those of all rows in the order of their appearance."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[Row]:
    """Read rows that were written, if any; every value is text, and what a row lacked is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{column: value for column, value in row.items() if value} for row in csv.DictReader(file)]


def put_row(path: Path, row: Row, keys: Sequence[str]) -> list[Row]:
    """Write a row into a CSV, in place of the one that agrees in the keys; return all rows."""
    own = [str(row[key]) for key in keys]
    rows = [*(other for other in read_rows(path) if [str(other[key]) for key in keys] != own), row]
    write_rows(path, rows)
    return rows


def tabulate(rows: Sequence[Row], keys: Sequence[str], scales: Mapping[str, float]) -> str:
    """Lay rows out as a Markdown table, a line for every combination of keys.

    Args:
        rows: One for each seed.
        keys: Columns that tell experiments apart.
        scales: Columns of values, and what to multiply them by; 100 makes per cent of a share.
    """
    cells: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for column, scale in scales.items():
            if column in row:
                cells[tuple(str(row[key]) for key in keys)][column].append(scale * float(row[column]))
    head = [*keys, *scales, "seeds"]
    lines = [head, ["---"] * len(head)]
    for names, values in cells.items():
        texts = [_text(values[column]) for column in scales]
        lines.append([*names, *texts, str(max(map(len, values.values())))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
