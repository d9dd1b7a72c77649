"""The picture strip of a run: what was mined, what the captioner saw in it, what was drawn."""

import io
import json
import textwrap
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from callbacks.synthesis.files import write_bytes
from callbacks.synthesis.manifest import MANIFEST, SELECTION
from callbacks.synthesis.mining import MiningData

STRIP = "strip.png"
CELL, GAP, CAPTION, DRAWN = 96, 8, 250, 5  # pixels of a picture, between pictures, of a caption; pictures drawn a row


@dataclass(frozen=True)
class Row:
    """One row of the strip.

    Attributes:
        title: Its first line of text.
        records: Manifest records of what is shown.
        source: Position of the mined image that they were drawn from, None where there is none.
    """

    title: str
    records: list[dict[str, Any]]
    source: int | None = None


def draw_strip(datamodule: MiningData, directory: Path, rows: int = 8) -> Path | None:
    """Draw ``strip.png``, one row a mined image: the image, its captions, and images drawn from them.

    Every class has its turn, the highest loss first. Where nothing was mined, a row is a class and bias attribute.

    Args:
        datamodule: Gives the mined source images and the names.
        directory: The synthesis folder with metadata.jsonl, and selection.json if there is one; the strip is written
            there.
        rows: Number of rows.

    Returns:
        The picture's path; None where nothing was drawn.
    """
    selection = directory / SELECTION
    chosen = _mined(datamodule, directory, rows) if selection.is_file() else _groups(datamodule, directory, rows)
    if not chosen:
        return None
    left = GAP if chosen[0].source is None else GAP + CELL + GAP
    width = left + CAPTION + DRAWN * (CELL + GAP)
    head = 28
    strip = Image.new("RGB", (width, head + len(chosen) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(strip)
    font, bold = ImageFont.load_default(13), ImageFont.load_default(14)
    if left > GAP:
        draw.text((GAP, 6), "mined", "black", bold)
    draw.text((left, 6), "class, loss, captions" if left > GAP else "class and prompts", "black", bold)
    draw.text((left + CAPTION, 6), "drawn from them", "black", bold)
    for number, row in enumerate(chosen):
        y = head + number * (CELL + GAP)
        if row.source is not None:
            strip.paste(_cell(datamodule.source_image(row.source)), (GAP, y))
        lines = [row.title]
        for caption in dict.fromkeys(record["caption"] for record in row.records):
            lines += textwrap.wrap(caption, 36, initial_indent="· ", max_lines=2)
        draw.multiline_text((left, y), "\n".join(lines[:6]), "black", font, spacing=3)
        for column, record in enumerate(row.records[:DRAWN]):
            with Image.open(directory / record["file_name"]) as image:
                strip.paste(_cell(image.convert("RGB")), (left + CAPTION + column * (CELL + GAP), y))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG")
    write_bytes(directory / STRIP, buffer.getvalue())
    return directory / STRIP


def _mined(datamodule: MiningData, directory: Path, rows: int) -> list[Row]:
    """The mined images with the highest losses of which something was drawn, the classes in turn."""
    drawn = _records(directory, lambda record: record["source_index"])
    items = json.loads((directory / SELECTION).read_text())["items"]
    turns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in sorted(items, key=lambda item: -item["loss"]):
        if drawn.get(item["index"]):
            turns[item["label"]].append(item)
    order = sorted((turn, label, item) for label, own in turns.items() for turn, item in enumerate(own[:rows]))
    return [
        Row(f"{datamodule.class_names[label]}, loss {item['loss']:.1f}", drawn[item["index"]], item["index"])
        for _, label, item in order[:rows]
    ]


def _groups(datamodule: MiningData, directory: Path, rows: int) -> list[Row]:
    """The first classes, or classes and bias attributes."""
    drawn = _records(directory, lambda record: (record["label"], record.get("bias", -1)))
    return [
        Row(datamodule.class_names[label] + (f", {datamodule.bias_names[bias]}" if bias >= 0 else ""), records)
        for (label, bias), records in sorted(drawn.items())[:rows]
    ]


def _records(directory: Path, key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """The first records of the manifest by a key: as many as are shown, and more where their captions are few."""
    drawn: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    with (directory / MANIFEST).open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            kept = drawn[key(record)]
            if len(kept) < DRAWN or (len({r["caption"] for r in kept}) < 3 and len(kept) < 50):
                kept.append(record)
    return drawn


def _cell(image: Image.Image) -> Image.Image:
    """Fit an image into a cell; small ones keep their pixels visible."""
    method = Image.Resampling.NEAREST if max(image.size) <= CELL // 2 else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (CELL, CELL), method, color="white")
