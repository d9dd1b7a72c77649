"""Reading what the synthesis left on disk: the manifest of generated images and the selection of mined images."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lightning_modules.errors import ConfigError

MANIFEST = "metadata.jsonl"
SELECTION = "selection.json"


class PackedNames(Sequence[str]):
    """Many short strings in one block of bytes: about 30 bytes a name where a list of str takes 80.

    Args:
        names: The strings, read once.
    """

    def __init__(self, names: Iterator[str] | Sequence[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q")
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Adds a string at the end."""
        self._bytes += name.encode()
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        """Returns the number of strings."""
        return len(self._ends)

    @overload
    def __getitem__(self, position: int) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> "PackedNames": ...

    def __getitem__(self, position: int | slice) -> "str | PackedNames":
        """Returns the string at a position, or a slice."""
        if isinstance(position, slice):
            return PackedNames([self[i] for i in range(*position.indices(len(self)))])
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        position %= len(self)
        start = self._ends[position - 1] if position else 0
        return self._bytes[start : self._ends[position]].decode()


@dataclass(frozen=True)
class Manifest:
    """The generated images that training uses; position i of every field belongs to image i.

    Attributes:
        files: Names relative to the synthetic folder.
        labels: Classes, int64 [M].
        source_index: Position in the real training split of the image that gave the caption, -1 for none, int64 [M].
        biases: Bias attributes that the prompts asked for, -1 where they asked for none, int64 [M].
        weights: How much each counts in training, in 0..1, float32 [M].
    """

    files: Sequence[str]
    labels: NDArray[np.int64]
    source_index: NDArray[np.int64]
    biases: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)


def read_manifest(
    synthetic_dir: Path,
    class_names: Sequence[str] | None = None,
    bias_names: Sequence[str] = (),
    remedy: str | None = None,
) -> Manifest:
    """Reads `metadata.jsonl` line by line; the memory taken is some 50 bytes an image.

    Args:
        synthetic_dir: The folder `synthetic` of a run.
        class_names: When given, labels must be positions in it and a record's `class_name` must agree.
        bias_names: The same for bias attributes and a record's `bias_name`.
        remedy: What an error advises; not given, to delete the manifest, so that the images are drawn again.

    Returns:
        The images in the order of the file.

    Raises:
        ConfigError: The manifest is missing, empty or torn, a label is wrong, or an image file is not there.
    """
    path = synthetic_dir / MANIFEST
    remedy = remedy or _again(path)
    files, labels, sources, biases = PackedNames(), array("q"), array("q"), array("q")
    weights = array("f")
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    name, label, source, bias, weight = _record(line, class_names, bias_names)
                    if not (synthetic_dir / name).is_file():
                        raise ValueError(f"the image {name} is missing")
                except ValueError as error:
                    raise ConfigError(f"{path} line {number}: {error}; {remedy}") from error
                files.append(name)
                labels.append(label)
                sources.append(source)
                biases.append(bias)
                weights.append(weight)
    except OSError as error:
        raise ConfigError(
            f"no manifest of synthetic images at {path} ({error.strerror}); run the synthesis first or set the stage's "
            "data to real"
        ) from error
    if not labels:
        raise ConfigError(f"{path} holds no image; {remedy}")
    classes, origins, attributes = (np.array(column, dtype=np.int64) for column in (labels, sources, biases))
    return Manifest(files, classes, origins, attributes, np.array(weights, dtype=np.float32))


def _again(path: Path) -> str:
    return f"delete {path} and run the same command again"


def _record(
    line: bytes, class_names: Sequence[str] | None, bias_names: Sequence[str]
) -> tuple[str, int, int, int, float]:
    try:
        record = json.loads(line)
        name, label, source = record["file_name"], record["label"], record["source_index"]
        bias, weight = record.get("bias", -1), record.get("weight", 1.0)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"torn or incomplete record ({error})") from error
    if not isinstance(name, str) or not _is_count(source, -1) or not _is_count(bias, -1):
        raise ValueError("wrong file_name, source_index or bias")
    if not _is_count(label, 0) or (class_names is not None and label >= len(class_names)):
        known = "" if class_names is None else f" (the data set has {len(class_names)} classes)"
        raise ValueError(f"wrong label {label!r}{known}")
    if class_names is not None and record.get("class_name", class_names[label]) != class_names[label]:
        raise ValueError(
            f"label {label} is {class_names[label]!r} in this data set but the record says {record['class_name']!r}"
        )
    if bias_names and bias >= len(bias_names):
        raise ValueError(f"wrong bias {bias} (the data set has {len(bias_names)} bias attributes)")
    if bias_names and bias >= 0 and record.get("bias_name", bias_names[bias]) != bias_names[bias]:
        raise ValueError(
            f"bias {bias} is {bias_names[bias]!r} in this data set but the record says {record['bias_name']!r}"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f"the weight {weight!r} does not lie in 0..1")
    return name, label, source, bias, weight


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def read_selection(synthetic_dir: Path) -> list[int]:
    """Reads which training images were mined.

    Args:
        synthetic_dir: The folder `synthetic` of a run.

    Returns:
        Positions in the real training split, in the order of `selection.json`.

    Raises:
        ConfigError: The file is missing or torn.
    """
    path = synthetic_dir / SELECTION
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        indices = [item["index"] for item in content["items"]]
    except OSError as error:
        raise ConfigError(
            f"the mined images are needed (data.mined_repeat, or a stage with data: mined), but there is no {path} "
            f"({error.strerror}); run a stage that mines before"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is torn or incomplete ({error}); {_again(path)}") from error
    if not all(_is_count(index, 0) for index in indices):
        raise ConfigError(f"{path} holds an index that is not a count from 0; {_again(path)}")
    return indices
