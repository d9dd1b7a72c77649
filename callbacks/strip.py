"""The picture strip of a run: what was mined, what the captioner saw in it, what was drawn."""

import io
import textwrap
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

from callbacks.synthesis.drawing import read_image
from callbacks.synthesis.files import write_bytes
from callbacks.synthesis.mining import MiningData
from callbacks.synthesis_table import DRAWN, read_table

STRIP = "strip.png"
CELL, GAP, CAPTION = 96, 8, 250  # pixels of a picture, between pictures, of a caption
WIDTH, LONGEST = 36, 56  # letters of a line, and of a name that is written in full
FONT = get_data_path() + "/fonts/ttf/DejaVuSans.ttf"  # Pillow's own has no letters but those of English


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
    table = read_table(directory, datamodule.class_names, datamodule.bias_names)
    chosen = [row for row in table if row.drawn.files][:rows]
    if not chosen:
        return None
    left = GAP if chosen[0].source is None else GAP + CELL + GAP
    width = left + CAPTION + DRAWN * (CELL + GAP)
    head = 28
    strip = Image.new("RGB", (width, head + len(chosen) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(strip)
    font, bold = (ImageFont.truetype(FONT, size) for size in (12, 13))
    if left > GAP:
        draw.text((GAP, 6), "real" if chosen[0].loss is None else "mined", "black", bold)
    draw.text((left, 6), "class, loss, captions" if left > GAP else "class and prompts", "black", bold)
    draw.text((left + CAPTION, 6), "drawn from them", "black", bold)
    for number, row in enumerate(chosen):
        y = head + number * (CELL + GAP)
        if row.source is not None:
            strip.paste(fit_cell(datamodule.source_image(row.source)), (GAP, y))
        name = row.title if len(row.title) <= LONGEST else f"{row.title[: LONGEST - 1]}…"
        lines = textwrap.wrap(name if row.loss is None else f"{name}, loss {row.loss:.1f}", WIDTH, max_lines=2)
        for caption in row.drawn.prompts:
            lines += textwrap.wrap(caption, WIDTH, initial_indent="· ", max_lines=2)
        draw.multiline_text((left, y), "\n".join(lines[:6]), "black", font, spacing=3)
        for column, file in enumerate(row.drawn.files):
            strip.paste(fit_cell(read_image(file)), (left + CAPTION + column * (CELL + GAP), y))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG")
    write_bytes(directory / STRIP, buffer.getvalue())
    return directory / STRIP


def fit_cell(image: Image.Image) -> Image.Image:
    """Fit an image into a cell; small ones keep their pixels visible."""
    method = Image.Resampling.NEAREST if max(image.size) <= CELL // 2 else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (CELL, CELL), method, color="white")
