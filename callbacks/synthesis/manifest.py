"""The records of a synthetic set, in the Hugging Face ImageFolder convention."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.synthesis.files import read_json, write_lines

MANIFEST = "metadata.jsonl"
REJECTED = "rejected.jsonl"
SELECTION = "selection.json"
LOSSES = "losses.safetensors"
CAPTIONS = "captions.json"
CONTRAST = "contrast.json"
FILTER = "filter.json"
PLAN = "plan.json"
PARTIAL = "partial"
IMAGES = "images"
FIELDS = (
    "file_name",
    "label",
    "class_name",
    "bias",
    "bias_name",
    "source_index",
    "caption",
    "prompt",
    "seed",
    "attempt",
    "generator",
    "revision",
    "steps",
    "guidance",
    "verdict",
    "agreement",
    "weight",
    "sha256",
)


@dataclass(frozen=True)
class Caption:
    """One caption of a mined image.

    Attributes:
        text: The caption.
        kept: Whether the text filter lets it be drawn from.
    """

    text: str
    kept: bool


def read_captions(directory: Path) -> dict[int, list[Caption]]:
    """Read the captions of the mined images that have any, by index.

    With what the text filter decided; before it all are kept.
    """
    if not (directory / CAPTIONS).is_file():
        return {}
    items = read_json(directory / CAPTIONS)["items"]
    count = sum(len(item["captions"]) for item in items)
    # the verdicts stand in the order of the captions
    kept = iter(read_json(directory / FILTER)["kept"] if (directory / FILTER).is_file() else [True] * count)
    captions = {item["index"]: [Caption(text, next(kept)) for text in item["captions"]] for item in items}
    return {index: own for index, own in captions.items() if own}


def image_name(number: int) -> str:
    """Return the path of image ``number``, relative to the synthetic folder."""
    return f"{IMAGES}/{number:06d}.png"


def is_finished(directory: Path) -> bool:
    """Tell whether the set is complete: its manifest is written last."""
    return (directory / MANIFEST).is_file()


def write_manifest(directory: Path, kept: Iterable[dict[str, Any]], rejected: Iterable[dict[str, Any]]) -> None:
    """Write the rejects, then the manifest, each atomically.

    Args:
        directory: The synthetic folder.
        kept: Records of the images to train on, in order.
        rejected: Records of every drawing that was turned down, with the reason as verdict.
    """
    write_lines(directory / REJECTED, (_ordered(record) for record in rejected))
    write_lines(directory / MANIFEST, (_ordered(record) for record in kept))


def _ordered(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in FIELDS}
