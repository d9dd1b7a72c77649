"""Pictures and tables inside the page: data URIs."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence

from PIL import Image

SIDE = 112  # pixels of a thumbnail


def thumbnail(image: Image.Image) -> str:
    """Return a picture as a WebP data URI, at most 112 pixels wide and high; smaller ones stay as they are."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82, method=4)
    return _uri("image/webp", buffer.getvalue())


def csv_uri(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as a CSV data URI."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return _uri("text/csv;charset=utf-8", text.getvalue().encode())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
