import json
from pathlib import Path

import pytest

from callbacks.synthesis.files import (
    append_lines,
    flush_disks,
    make_folder,
    mend_lines,
    read_json,
    read_lines,
    write_bytes,
    write_json,
    write_lines,
)
from lightning_modules.errors import ConfigError


def test_no_file_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == mend_lines(tmp_path / "none.jsonl") == []


def test_round_trip_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, "é"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, "é"]}
    assert write_lines(tmp_path / "b.jsonl", ({"n": n} for n in range(3))) == 3
    append_lines(tmp_path / "b.jsonl", [{"n": 3}])
    assert [record["n"] for record in read_lines(tmp_path / "b.jsonl")] == [0, 1, 2, 3]
    flush_disks()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("torn", ['{"n": 9', '{"n": 9\n', "\0\0\0"])
def test_a_torn_end_is_cut_off_and_appending_goes_on(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "b.jsonl"
    append_lines(file, [{"n": 0}])
    with file.open("a") as handle:
        handle.write(torn)
    size = file.stat().st_size
    assert read_lines(file) == [{"n": 0}]
    assert file.stat().st_size == size
    assert mend_lines(file) == [{"n": 0}]
    append_lines(file, [{"n": 1}])
    assert [json.loads(line)["n"] for line in file.read_text().splitlines()] == [0, 1]


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_full_disk_is_one_line_with_folder_and_remedy(tmp_path: Path) -> None:
    # Writing to /dev/full fails as on a full disk.
    (tmp_path / "a.json.tmp").symlink_to("/dev/full")
    (tmp_path / "b.jsonl.tmp").symlink_to("/dev/full")
    (tmp_path / "c.jsonl").symlink_to("/dev/full")
    for write in (
        lambda: write_json(tmp_path / "a.json", {}),
        lambda: write_lines(tmp_path / "b.jsonl", [{}]),
        lambda: append_lines(tmp_path / "c.jsonl", [{}]),
    ):
        with pytest.raises(ConfigError, match=f"no space left for {tmp_path}: free some space"):
            write()


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"")
    for folder in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(ConfigError, match="not a folder"):
            make_folder(folder)
