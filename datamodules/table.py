"""Your own images, listed in a table: CSV, TSV or Parquet."""

import csv
import importlib
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datamodules.images import Container, ImageFiles, one_line
from datamodules.own_data import SPLIT_NAMES, Listing, OwnData, one_form
from datamodules.samples import Split
from lightning_modules.errors import ConfigError

# "id" is the validation set of tables with an in-distribution and an out-of-distribution one; numbers as in Waterbirds
SPLIT_CELLS: dict[str, Split] = {
    **SPLIT_NAMES,
    **{"val(id)": "val", "id_val": "val", "0": "train", "1": "val", "2": "test"},
}
SEPARATORS = {".csv": "a comma or a semicolon", ".tsv": "a tab", ".tab": "a tab"}
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
CELL = 100  # characters of a cell that a message shows
Columns = dict[str, list[str]]


class Table(OwnData):
    """Images of your own, listed in a table with one row an image.

    The first line of a CSV or TSV names the columns::

        path,label,background,split
        img/0001.jpg,waterbird,water,train
        img/0002.jpg,landbird,,test

    Only `path` and `label` are needed. An empty bias means that it is not known. The split is train, val or test (or
    valid, validation, val(id); or 0, 1, 2, as in Waterbirds); what is missing is held out from train.

    Args:
        file: The table: .csv (comma or semicolon) or .tsv in UTF-8, or .parquet (`pip install -e '.[parquet]'`).
        root: Folder or zip to which the paths are relative; the table's own folder when not given.
        path_column: Column with the path of the image, relative or absolute.
        label_column: Column with the class.
        bias_column: Column with the bias attribute; without one there are no bias labels.
        split_column: Column with the split; without one, validation and test set are held out.
        text_column: Column with a text that describes the image, for `TextToImage` and `CaptionModel` to learn from;
            an empty cell is none.
        classes: The classes in the order that numbers them; sorted as found when not given. If the column holds
            numbers 0, 1, ..., these are their names.
        biases: The same for the bias attributes.
        **kwargs: Arguments of `OwnData`.
    """

    KEY: ClassVar[str] = "data.file"
    LABELS: ClassVar[str] = "data.label_column"

    def __init__(
        self,
        file: Path,
        *,
        root: Path | None = None,
        path_column: str = "path",
        label_column: str = "label",
        bias_column: str | None = None,
        split_column: str | None = None,
        text_column: str | None = None,
        classes: list[str | int] | None = None,
        biases: list[str | int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file = Path(file).expanduser()
        self.root = self.file.parent if root is None else Path(root).expanduser()
        self.path_column = path_column
        self.label_column = label_column
        self.bias_column = bias_column
        self.split_column = split_column
        self.text_column = text_column
        self.classes = tuple(one_form(str(name)) for name in classes or ())
        self.biases = tuple(one_form(str(name)) for name in biases or ())
        for key, names in (("classes", self.classes), ("biases", self.biases)):
            if len(set(names)) < len(names):
                raise ConfigError(f"data.{key}: a name comes twice in {', '.join(names)}; give each once")
        if bias_column == label_column:
            raise ConfigError(
                f"data.bias_column={bias_column}: it is data.label_column too; name another column or leave it out"
            )
        if biases and bias_column is None:
            raise ConfigError("data.biases: no column is read for them; set data.bias_column too")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes: those of `data.classes`, or those that training images have, sorted."""
        return self.classes or super().class_names

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the bias attributes: those of `data.biases`, or those found, sorted; () without bias labels."""
        return self.biases or super().bias_names

    def read_listing(self) -> Listing:
        """Reads the table and looks whether all images are there."""
        if not self.root.exists():
            raise ConfigError(f"data.root: {self.root} does not exist; give the folder that the paths start from")
        named = {
            "path_column": self.path_column,
            "label_column": self.label_column,
            "bias_column": self.bias_column,
            "split_column": self.split_column,
            "text_column": self.text_column,
        }
        wanted = {key: column for key, column in named.items() if column is not None}
        table = read_table(self.file, wanted)
        paths = table[self.path_column]
        if not paths:
            raise ConfigError(f"data.file: {self.file} has no row; give one an image")
        for key in ("bias_column", "text_column"):
            if key in wanted and not any(table[wanted[key]]):
                raise ConfigError(
                    f"data.{key}={wanted[key]}: the column is empty in {self.file}; fill it in or leave the setting out"
                )
        labels = self._named("classes", table[self.label_column], self.classes, paths)
        for row, label in enumerate(labels):
            if not label:
                raise self._wrong(row, paths, f"has no {self.label_column}", "fill it in or delete the row")
        biases = [""] * len(paths)
        if self.bias_column is not None:
            biases = self._named("biases", table[self.bias_column], self.biases, paths)
        texts = None if self.text_column is None else table[self.text_column]
        return Listing(self._files(paths), labels, biases, self._splits(table, paths), texts)

    def _wrong(self, row: int, paths: Sequence[str], what: str, remedy: str) -> ConfigError:
        # a quote that is never closed makes one cell of many lines
        path = one_line(paths[row], CELL)
        return ConfigError(f"data.file: row {row + 1} of {self.file} ({path}) {what}; {remedy}")

    def _named(self, key: str, cells: Sequence[str], names: tuple[str, ...], paths: Sequence[str]) -> list[str]:
        """The cells by the names that `data.classes` or `data.biases` gives, if any."""
        cells = [one_form(cell) for cell in cells]
        if not names:
            return cells
        meaning = {"": "", **{str(number): name for number, name in enumerate(names)}, **{name: name for name in names}}
        if any(name.isdecimal() for name in names):  # then a number is a name and not a position
            meaning = {"": "", **{name: name for name in names}}
        for row, cell in enumerate(cells):
            if cell not in meaning:
                remedy = f"correct it or data.{key}, which has {', '.join(names)}"
                raise self._wrong(row, paths, f"has {_shown(cell)}, which is none of data.{key}", remedy)
        return [meaning[cell] for cell in cells]

    def _splits(self, table: Columns, paths: Sequence[str]) -> list[Split]:
        if self.split_column is None:
            return ["train"] * len(paths)
        splits: list[Split] = []
        for row, cell in enumerate(table[self.split_column]):
            split = SPLIT_CELLS.get(cell.lower())
            if split is None:
                raise self._wrong(row, paths, f"has the split {_shown(cell)}", "write train, val or test, or 0, 1 or 2")
            splits.append(split)
        return splits

    def _files(self, paths: Sequence[str]) -> ImageFiles:
        container = Container(self.root)
        names = [posixpath.normpath(path) if path else "" for path in paths]
        first: dict[str, int] = {}
        missing = []
        for row, name in enumerate(names):
            if not name:
                raise self._wrong(row, paths, f"has no {self.path_column}", "fill it in or delete the row")
            name = names[row] = _as_stored(container, name)
            # a relative and an absolute path may mean the same file, and the root may be relative itself
            place = name if container.is_zip else os.path.abspath(os.path.join(container.path, name))
            if place in first:
                what = f"has the image of row {first[place] + 1} again"
                raise self._wrong(row, paths, what, "an image may come once, in one split")
            first[place] = row
            if not container.holds(name):
                missing.append(row)
        if missing:
            count = f"{len(missing)} of {len(paths)} images are missing" if len(missing) > 1 else "the image is missing"
            remedy = "set data.root to the folder that the paths start from, or get the files"
            if len(missing) == len(paths) and all("\\" in path for path in paths):
                remedy = f"write / in place of \\ in the column {self.path_column}"
            where = container.where(one_line(names[missing[0]], CELL))
            raise self._wrong(missing[0], paths, f"leads to {where}: {count}", remedy)
        return ImageFiles(container, names)


def _as_stored(container: Container, name: str) -> str:
    """A name in the Unicode form that the file has: tables and disks write the same accented letter differently."""
    if container.holds(name):
        return name
    forms = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if container.holds(form)), name)


def read_table(file: Path, wanted: dict[str, str]) -> Columns:
    """Reads some columns of a table as text.

    Args:
        file: .csv, .tsv or .parquet.
        wanted: Names of the columns, by the option that gives them.

    Returns:
        The cells of every wanted column without surrounding spaces; "" where a cell is empty.

    Raises:
        ConfigError: The file is missing or is no such table, a column is missing, or a row has too many cells.
    """
    suffix = file.suffix.lower()
    if suffix not in (*DELIMITERS, *PARQUET):
        raise ConfigError(f"data.file: {file} ends in neither .csv, .tsv nor .parquet; give such a table")
    if not file.is_file():
        raise ConfigError(f"data.file: {file} does not exist; give a table with the columns path and label")
    return _read_parquet(file, wanted) if suffix in PARQUET else _read_text(file, DELIMITERS[suffix], wanted)


def _check_columns(file: Path, columns: Iterable[str], wanted: dict[str, str]) -> None:
    columns = list(columns)
    if not columns:
        raise ConfigError(f"data.file: {file} is empty; give a table with the columns path and label")
    for key, column in wanted.items():
        if column not in columns:
            found = one_line(", ".join(columns), 3 * CELL)
            remedy = "name one of them"
            if len(columns) == 1 and file.suffix.lower() in SEPARATORS:
                remedy += f"; is the separator {SEPARATORS[file.suffix.lower()]}?"
            raise ConfigError(f"data.{key}={column}: {file} has the columns {found}; {remedy}")
        if columns.count(column) > 1:
            raise ConfigError(f"data.file: {file} has the column {column} twice; rename one")


def _read_text(file: Path, delimiter: str, wanted: dict[str, str]) -> Columns:
    try:
        # utf-8-sig: Excel writes a mark before the first character
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            # Excel separates by semicolons where the decimal point is a comma
            delimiter = ";" if delimiter == "," and header.count(";") > header.count(",") else delimiter
            # strict: a quote that is never closed would swallow rows without a word
            reader = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(file, reader.fieldnames, wanted)
            columns: Columns = {column: [] for column in wanted.values()}
            for row in reader:
                if None in row:
                    raise ConfigError(
                        f"data.file: line {reader.line_num} of {file} has more cells than the first line names; put "
                        "quotes around a cell that holds the separator"
                    )
                for column, cells in columns.items():
                    cells.append((row[column] or "").strip())
            return columns
    except csv.Error as error:
        raise ConfigError(
            f"data.file: cannot read {file} up to its end ({error}); close the quotes, and write one that belongs to a "
            "cell twice"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error), CELL)
        raise ConfigError(f"data.file: cannot read {file} ({reason}); save it as UTF-8 text with separators") from error


def _read_parquet(file: Path, wanted: dict[str, str]) -> Columns:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            f"data.file: {file} needs pyarrow, which is not installed; pip install -e '.[parquet]' or give a CSV"
        ) from error
    try:
        with parquet.ParquetFile(file) as source:
            _check_columns(file, source.schema_arrow.names, wanted)
            table = source.read(columns=[*set(wanted.values())])
    # pyarrow's errors for broken files are OSError and ValueError
    except (OSError, ValueError) as error:
        reason = one_line(str(error), CELL)
        raise ConfigError(f"data.file: cannot read {file} ({reason}); write it again or give a CSV") from error
    return {column: [_text(cell) for cell in table.column(column).to_pylist()] for column in wanted.values()}


def _shown(cell: str) -> str:
    return repr(one_line(cell, CELL))


def _text(cell: object) -> str:
    """A cell as a CSV would have it: numbers with gaps are floats in pandas, 1.0 is meant as 1."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()
