"""The records of a synthetic set, in the Hugging Face ImageFolder convention."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from callbacks.synthesis.files import write_lines

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
