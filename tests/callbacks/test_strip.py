import json
from pathlib import Path

import numpy as np
from PIL import Image

from callbacks.strip import CAPTION, CELL, GAP, draw_strip
from callbacks.synthesis_table import DRAWN
from tests.callbacks.toy import ToyData

RED, HEAD = (200, 10, 10), 28


def finished(folder: Path, images_a_source: int = 7, side: int = 32) -> Path:
    """A finished synthesis from the training images 0 to 3, of which 3 has the highest loss; red images."""
    (folder / "images").mkdir(parents=True)
    items = [{"index": index, "label": index % 2, "bias": 0, "loss": float(index)} for index in range(4)]
    (folder / "selection.json").write_text(json.dumps({"items": items}))
    records = []
    for number in range(4 * images_a_source):
        name = f"images/{number:06d}.png"
        Image.new("RGB", (side, side), RED).save(folder / name)
        source = number % 4
        records.append(
            {"file_name": name, "label": source % 2, "source_index": source, "caption": f"caption {number // 4} " * 12}
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def cell(strip: Image.Image, row: int, left: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    top = HEAD + row * (CELL + GAP)
    return np.asarray(strip.crop((left, top, left + CELL, top + CELL)))


def test_rows_show_sources_and_what_was_drawn(tmp_path: Path) -> None:
    data = ToyData()
    path = draw_strip(data, finished(tmp_path / "set"), rows=3)
    assert path == tmp_path / "set" / "strip.png"
    with Image.open(path) as strip:
        assert strip.size == (GAP + CELL + GAP + CAPTION + DRAWN * (CELL + GAP), HEAD + 3 * (CELL + GAP))
        # classes have their turn, the highest loss first: 2 of class 0, 3 of class 1, then 0
        for row, source in enumerate((2, 3, 0)):
            pixels = np.asarray(data.source_image(source).resize((CELL, CELL), Image.Resampling.NEAREST))
            assert np.array_equal(cell(strip, row, GAP), pixels)
            for column in range(DRAWN):
                left = 2 * GAP + CELL + CAPTION + column * (CELL + GAP)
                assert (cell(strip, row, left) == RED).all()
        # text between them, and none of it over the pictures
        assert (cell(strip, 0, 2 * GAP + CELL) < 128).any()


def test_names_in_other_letters_and_of_any_length_stay_in_their_column(tmp_path: Path) -> None:
    def letters(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        data = ToyData()
        data.class_names = (name, name)
        path = draw_strip(data, finished(tmp_path / name / "set"), rows=1)
        assert path is not None
        with Image.open(path) as strip:
            assert (cell(strip, 0, 2 * GAP + CELL + CAPTION) == RED).all()
            return cell(strip, 0, 2 * GAP + CELL)

    assert not np.array_equal(letters("ä"), letters("ж"))  # one box stands for every letter that a font lacks
    assert (letters("long name " * 12) < 128).any()


def test_large_images_fit_their_cell(tmp_path: Path) -> None:
    path = draw_strip(ToyData(), finished(tmp_path / "set", images_a_source=1, side=300), rows=8)
    assert path is not None
    with Image.open(path) as strip:
        assert strip.height == HEAD + 4 * (CELL + GAP)
        assert (cell(strip, 0, 2 * GAP + CELL + CAPTION) == RED).all()
        assert (cell(strip, 0, 2 * GAP + CELL + CAPTION + CELL + GAP) == 255).all()


def test_nothing_drawn_no_strip(tmp_path: Path) -> None:
    folder = finished(tmp_path / "set", images_a_source=0)
    assert draw_strip(ToyData(), folder) is None
    assert not (folder / "strip.png").exists()
