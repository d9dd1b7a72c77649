import json
from pathlib import Path
from typing import Any

from callbacks.synthesis_table import Row, count_verdicts, read_table

CLASSES, GROUNDS = ("cat", "dog"), ("grass", "sand")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def mined(folder: Path) -> Path:
    items = [{"index": index, "label": label, "loss": loss} for index, label, loss in
             ((7, 0, 1.0), (3, 0, 2.0), (5, 1, 0.5), (9, 0, 3.0))]  # fmt: skip
    folder.mkdir()
    (folder / "selection.json").write_text(json.dumps({"items": items}))
    return folder


def record(number: int, source: int, verdict: str = "keep", caption: str = "a cat") -> dict[str, Any]:
    label = int(source == 5)
    own = {"file_name": f"images/{number:06d}.png", "label": label, "bias": -1, "source_index": source}
    return {**own, "caption": caption, "verdict": verdict}


def test_classes_have_their_turn(tmp_path: Path) -> None:
    rows = read_table(mined(tmp_path / "set"), CLASSES, ())
    assert [(row.title, row.source, row.loss) for row in rows] == [
        ("cat", 9, 3.0), ("dog", 5, 0.5), ("cat", 3, 2.0), ("cat", 7, 1.0),
    ]  # fmt: skip
    assert read_table(tmp_path / "set", CLASSES, (), 2) == rows[:2]
    # nothing is written or drawn yet
    assert not any(row.captions or row.dropped or row.drawn.files or row.drawn.verdicts for row in rows)


def test_captions_stand_with_their_image(tmp_path: Path) -> None:
    folder = mined(tmp_path / "set")
    items = [{"index": index, "captions": [f"{index} a", f"{index} b"]} for index in (7, 3, 5, 9)]
    (folder / "captions.json").write_text(json.dumps({"items": items}))
    texts = {row.source: (row.captions, row.dropped) for row in read_table(folder, CLASSES, ())}
    assert texts[9] == (["9 a", "9 b"], [])  # without a filter all are kept
    kept = [True, False, True, True, False, False, False, True]
    (folder / "filter.json").write_text(json.dumps({"kept": kept}))
    texts = {row.source: (row.captions, row.dropped) for row in read_table(folder, CLASSES, ())}
    assert texts == {7: (["7 a"], ["7 b"]), 3: (["3 a", "3 b"], []), 5: ([], ["5 a", "5 b"]), 9: (["9 b"], ["9 a"])}


def test_drawings_stand_with_their_image(tmp_path: Path) -> None:
    folder = mined(tmp_path / "set")
    write_lines(folder / "metadata.jsonl", [*(record(n, 9, caption=f"cat {n % 2}") for n in range(7)), record(7, 5)])
    write_lines(folder / "rejected.jsonl", [record(2, 9, "constant"), record(8, 3, "nan"), record(8, 3, "nan")])
    drawn = {row.source: row.drawn for row in read_table(folder, CLASSES, ())}
    assert drawn[9].files == [folder / f"images/{number:06d}.png" for number in range(5)]
    assert drawn[9].prompts == ["cat 0", "cat 1"]
    assert drawn[9].verdicts == {"keep": 7, "constant": 1}
    assert (drawn[3].files, drawn[3].verdicts) == ([], {"nan": 2})
    assert (drawn[7].files, drawn[7].verdicts) == ([], {})
    assert count_verdicts(folder) == {"keep": 8, "nan": 2, "constant": 1}


def test_without_mining_a_row_is_a_group(tmp_path: Path) -> None:
    records = [{**record(number, -1), "label": number % 2, "bias": number // 2} for number in range(4)]
    write_lines(tmp_path / "metadata.jsonl", records)
    rows = read_table(tmp_path, CLASSES, GROUNDS)
    assert [row.title for row in rows] == ["cat, grass", "dog, grass", "cat, sand", "dog, sand"]  # classes in turn
    assert rows[0] == Row("cat, grass", None, None, ["a cat"], [], rows[0].drawn)
    assert read_table(tmp_path, CLASSES, GROUNDS, 1) == rows[:1]
    unnamed = read_table(tmp_path, CLASSES, ())  # of data that have no bias labels
    assert unnamed[0].title == "cat, attribute 0"


def test_a_set_from_elsewhere(tmp_path: Path) -> None:
    write_lines(tmp_path / "metadata.jsonl", [{"file_name": "images/a.png", "label": 1, "class_name": "dog"}])
    (row,) = read_table(tmp_path, CLASSES, ())
    assert (row.title, row.captions, row.drawn.files) == ("dog", [], [tmp_path / "images/a.png"])
    assert count_verdicts(tmp_path) == {"keep": 1}


def test_nothing_there(tmp_path: Path) -> None:
    assert read_table(tmp_path, CLASSES, ()) == []
