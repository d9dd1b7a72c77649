"""Writes a table of tiny pictures as CSV, TSV or Parquet."""

import csv
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.layouts.folder import write_images


def write_rows(file: Path, columns: Mapping[str, Sequence[object]], delimiter: str | None = None) -> Path:
    """A table of the given columns, in the format that the file's ending asks for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(arrow.table({name: list(cells) for name, cells in columns.items()}), file)
        return file
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter or {".tsv": "\t"}.get(file.suffix, ","))
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


def write_table(
    root: Path,
    *,
    per_group: int = 3,
    classes: Iterable[str] = ("cat", "dog"),
    biases: Iterable[str] = ("grass", "sofa"),
    splits: Iterable[str] = ("train", "val", "test"),
    suffix: str = ".csv",
    seed: int = 0,
) -> Path:
    """`per_group` images of each group in each split, all in root/img, and root/table.csv with columns for them.

    Returns:
        The table; its columns are path, label, bias and split.
    """
    groups = [(label, bias, split) for split in splits for label in classes for bias in biases]
    rows = [group for group in groups for _ in range(per_group)]
    paths = [f"img/{number:04d}.jpg" for number in range(len(rows))]
    write_images(root, paths, seed)
    labels, attributes, parts = zip(*rows, strict=True)
    return write_rows(root / f"table{suffix}", {"path": paths, "label": labels, "bias": attributes, "split": parts})
