"""A synthesis as a table: what was mined, what was written about it, what was drawn, and what was turned down."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.synthesis.drawing import KEEP
from callbacks.synthesis.files import read_json, read_lines
from callbacks.synthesis.manifest import MANIFEST, REJECTED, SELECTION, read_captions

DRAWN = 5


@dataclass
class Drawn:
    """What was drawn from one image, or for one group.

    Attributes:
        files: The first images that came through the gate.
        prompts: The first different texts that they were drawn from.
        verdicts: How often the gate gave each verdict.
    """

    files: list[Path] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        title: Class of the mined image, or class and bias attribute that prompts name.
        source: Position in the training set of the mined image, or of the one that was turned into another; None where
            there is none.
        loss: Its loss under the biased model, in nats.
        captions: The texts that were kept.
        dropped: The texts that the filter dropped.
        drawn: What was drawn from it.
    """

    title: str
    source: int | None
    loss: float | None
    captions: list[str]
    dropped: list[str]
    drawn: Drawn


def read_table(
    directory: Path, class_names: Sequence[str], bias_names: Sequence[str], count: int | None = None
) -> list[Row]:
    """Read the rows of a synthesis, whatever of it there is.

    Args:
        directory: The synthetic folder.
        class_names: Names of the classes, by label.
        bias_names: Names of the bias attributes, () where they are not known.
        count: How many rows at most; the classes have their turn, the highest loss first.
    """
    drawn: dict[tuple[int, int, int], Drawn] = defaultdict(Drawn)
    for record in _records(directory):
        # a set that was made elsewhere may tell no more than file and class
        own = drawn[record.get("source_index", -1), record["label"], record.get("bias", -1)]
        own.verdicts[record.get("verdict", KEEP)] += 1
        if record.get("verdict", KEEP) != KEEP:
            continue
        if len(own.files) < DRAWN:
            own.files.append(directory / record["file_name"])
        prompt = record.get("caption", "")
        if prompt and prompt not in own.prompts and len(own.prompts) < DRAWN:
            own.prompts.append(prompt)
    mined = read_json(directory / SELECTION)["items"] if (directory / SELECTION).is_file() else []
    if not mined or (drawn and {item["index"] for item in mined}.isdisjoint(source for source, _, _ in drawn)):
        # drawn from prompts, from classes, or from images that were not mined
        items = [{"label": key[1], "loss": 0.0, "key": key} for key in sorted(drawn)]
        keys = [item["key"] for item in _by_turns(items)[:count]]
        return [_group_row(key, key[0] if key[0] >= 0 else None, drawn[key], class_names, bias_names) for key in keys]
    captions = read_captions(directory)
    rows = []
    for item in _by_turns(mined)[:count]:
        texts = captions.get(item["index"], [])
        kept, dropped = ([one.text for one in texts if one.kept == verdict] for verdict in (True, False))
        found = drawn.get((item["index"], item["label"], -1), Drawn())
        rows.append(Row(class_names[item["label"]], item["index"], item["loss"], kept, dropped, found))
    return rows


def count_verdicts(directory: Path) -> dict[str, int]:
    """Count how often the gate gave each verdict, the most frequent first."""
    return dict(Counter(str(record.get("verdict", KEEP)) for record in _records(directory)).most_common())


def _group_row(
    key: tuple[int, int, int],
    source: int | None,
    drawn: Drawn,
    class_names: Sequence[str],
    bias_names: Sequence[str],
) -> Row:
    _, label, bias = key
    # data without bias labels may be drawn for by prompts that name biases
    bias_name = f", {bias_names[bias] if bias < len(bias_names) else f'attribute {bias}'}" if bias >= 0 else ""
    title = class_names[label] + bias_name
    return Row(title, source, None, drawn.prompts, [], drawn)


def _records(directory: Path) -> list[dict[str, Any]]:
    """The records of what was kept, then of what was turned down."""
    return [*read_lines(directory / MANIFEST), *read_lines(directory / REJECTED)]


def _by_turns(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Order mined images: the classes in turn, the highest loss first."""
    turns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in sorted(items, key=lambda item: -item["loss"]):
        turns[item["label"]].append(item)
    order = sorted((turn, label) for label, own in turns.items() for turn in range(len(own)))
    return [turns[label][turn] for turn, label in order]
