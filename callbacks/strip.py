"""The picture strip of a run: what was mined, what the captioner saw in it, what was drawn from that."""

import io
import json
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from callbacks.synthesis.files import write_bytes
from callbacks.synthesis.mining import MiningData

STRIP = "strip.png"
CELL, GAP, CAPTION, DRAWN = 96, 8, 250, 5  # pixels of a picture, between pictures, of a caption; pictures drawn a row


def draw_strip(datamodule: MiningData, directory: Path, rows: int = 8) -> Path | None:
    """Draw ``strip.png``, one row a mined image: the image, its captions, and images drawn from them.

    Every class has its turn, the highest loss first.

    Args:
        datamodule: Gives the mined source images.
        directory: The synthesis folder with selection.json and metadata.jsonl; the strip is written there.
        rows: Number of mined images shown.

    Returns:
        The picture's path; None where nothing was drawn.
    """
    drawn: dict[int, list[dict[str, Any]]] = defaultdict(list)
    with (directory / "metadata.jsonl").open() as file:
        for line in file:
            record = json.loads(line)
            kept = drawn[record["source_index"]]
            if len(kept) < DRAWN or (len({r["caption"] for r in kept}) < 3 and len(kept) < 50):
                kept.append(record)
    items = json.loads((directory / "selection.json").read_text())["items"]
    turns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in sorted(items, key=lambda item: -item["loss"]):
        if drawn.get(item["index"]):
            turns[item["label"]].append(item)
    order = sorted((turn, label, item) for label, own in turns.items() for turn, item in enumerate(own[:rows]))
    chosen = [item for _, _, item in order[:rows]]
    if not chosen:
        return None
    width = GAP + CELL + GAP + CAPTION + DRAWN * (CELL + GAP)
    head = 28
    strip = Image.new("RGB", (width, head + len(chosen) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(strip)
    font, bold = ImageFont.load_default(13), ImageFont.load_default(14)
    draw.text((GAP, 6), "mined", "black", bold)
    draw.text((2 * GAP + CELL, 6), "class, loss, captions", "black", bold)
    draw.text((2 * GAP + CELL + CAPTION, 6), "drawn from the captions", "black", bold)
    for row, item in enumerate(chosen):
        y = head + row * (CELL + GAP)
        strip.paste(_cell(datamodule.source_image(item["index"])), (GAP, y))
        records = drawn[item["index"]]
        lines = [f"{datamodule.class_names[item['label']]}, loss {item['loss']:.1f}"]
        for caption in dict.fromkeys(record["caption"] for record in records):
            lines += textwrap.wrap(caption, 36, initial_indent="· ", max_lines=2)
        draw.multiline_text((2 * GAP + CELL, y), "\n".join(lines[:6]), "black", font, spacing=3)
        for column, record in enumerate(records[:DRAWN]):
            x = 2 * GAP + CELL + CAPTION + column * (CELL + GAP)
            with Image.open(directory / record["file_name"]) as image:
                strip.paste(_cell(image.convert("RGB")), (x, y))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG")
    write_bytes(directory / STRIP, buffer.getvalue())
    return directory / STRIP


def _cell(image: Image.Image) -> Image.Image:
    """Fit an image into a cell; small ones keep their pixels visible."""
    method = Image.Resampling.NEAREST if max(image.size) <= CELL // 2 else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (CELL, CELL), method, color="white")
