import json
import tracemalloc
from pathlib import Path

import pytest

from datamodules.manifest import PackedNames, read_manifest, read_selection
from lightning_modules.errors import ConfigError
from tests.generators import write_selection, write_synthetic

NAMES = ("cat", "dog")
BIASES = ("grass", "sofa")


def rewrite(folder: Path, line: int, text: str) -> None:
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines))


def test_reads_what_was_written(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1, 1, 0, 1], NAMES)
    manifest = read_manifest(tmp_path, NAMES)
    assert len(manifest) == 5
    assert manifest.labels.tolist() == [0, 1, 1, 0, 1]
    assert manifest.source_index.tolist() == [0, 1, 2, 3, 4]
    assert list(manifest.files) == [f"images/{i:06d}.png" for i in range(5)]
    assert manifest.biases.tolist() == [-1] * 5
    write_synthetic(tmp_path, [0, 1], NAMES, biases=[1, 0])
    assert read_manifest(tmp_path, NAMES).biases.tolist() == [1, 0]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest .*metadata\.jsonl .*run the synthesis first"):
        read_manifest(tmp_path)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"holds no image; delete .*metadata\.jsonl and run the same command again"):
        read_manifest(tmp_path)


def record(**changes: object) -> str:
    content = {"file_name": "images/000001.png", "label": 1, "class_name": "dog", "source_index": 1, **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (record()[:30], "torn or incomplete"),
        ("\ufffd\udcff", "torn or incomplete"),
        ("[1, 2]", "torn or incomplete"),
        ("3", "torn or incomplete"),
        (record(label=None), "torn or incomplete"),
        (record(label=2), r"wrong label 2 \(the data set has 2 classes\)"),
        (record(label=-1), "wrong label -1"),
        (record(label="dog"), "wrong label 'dog'"),
        (record(label=True), "wrong label True"),
        (record(label=1.0), r"wrong label 1\.0"),
        (record(class_name="cat"), "label 1 is 'dog' in this data set but the record says 'cat'"),
        (record(file_name=7), "wrong file_name, source_index or bias"),
        (record(source_index="x"), "wrong file_name, source_index or bias"),
        (record(bias=-2), "wrong file_name, source_index or bias"),
        (record(file_name="images/none.png"), r"the image images/none\.png is missing"),
    ],
)
def test_bad_lines_are_named_with_the_remedy(tmp_path: Path, line: str, message: str) -> None:
    write_synthetic(tmp_path, [0, 1, 1], NAMES)
    path = tmp_path / "metadata.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(tmp_path, NAMES)
    text = str(caught.value)
    assert "line 2" in text
    assert text.endswith(f"delete {path} and run the same command again")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": 2}, r"wrong bias 2 \(the data set has 2 bias attributes\)"),
        ({"bias": 1, "bias_name": "snow"}, "bias 1 is 'sofa' in this data set but the record says 'snow'"),
    ],
)
def test_images_of_other_biases_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_synthetic(tmp_path, [0, 1], NAMES)
    rewrite(tmp_path, 1, record(bias=1, bias_name="sofa"))
    assert read_manifest(tmp_path, NAMES, BIASES).biases.tolist() == [-1, 1]
    rewrite(tmp_path, 1, record(**changes))
    with pytest.raises(ConfigError, match=message):
        read_manifest(tmp_path, NAMES, BIASES)


def test_a_torn_last_line(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1, 1], NAMES)
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="line 3: torn"):
        read_manifest(tmp_path)


def test_packed_names() -> None:
    names = ["images/000000.png", "", "ä b.png", "x"]
    packed = PackedNames(iter(names))
    assert list(packed) == names
    assert packed[-1] == "x"
    assert list(packed[1:3]) == names[1:3]
    assert "ä b.png" in packed
    with pytest.raises(IndexError):
        packed[4]


def peak(folder: Path) -> int:
    tracemalloc.start()
    manifest = read_manifest(folder, NAMES)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(manifest) in (100, 20000)
    return used


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    # the file checks are not what is measured, so all records share one image
    for count in (100, 20000):
        folder = write_synthetic(tmp_path / str(count), [0], NAMES)
        line = json.dumps({"file_name": "images/000000.png", "label": 0, "source_index": 0, "caption": "word " * 60})
        with (folder / "metadata.jsonl").open("w") as stream:
            stream.writelines(line + "\n" for _ in range(count))
    growth = (peak(tmp_path / "20000") - peak(tmp_path / "100")) / 19900
    assert growth < 100, f"{growth:.0f} bytes an image"


def test_selection(tmp_path: Path) -> None:
    write_selection(tmp_path, [5, 3, 9])
    assert read_selection(tmp_path) == [5, 3, 9]


def test_missing_selection(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the mined images are needed \(data\.mined_repeat"):
        read_selection(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"items": 3}', '{"items": [{"label": 1}]}', "[]"])
def test_torn_selection(tmp_path: Path, text: str) -> None:
    (tmp_path / "selection.json").write_text(text)
    with pytest.raises(ConfigError, match=r"selection\.json is torn"):
        read_selection(tmp_path)


def test_selection_with_a_wrong_index(tmp_path: Path) -> None:
    write_selection(tmp_path, [-2])
    with pytest.raises(ConfigError, match="not a count"):
        read_selection(tmp_path)
