import hashlib
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from callbacks.synthesis import Gate
from callbacks.synthesis.files import read_lines
from callbacks.synthesis.manifest import FIELDS
from lightning_modules.errors import ConfigError
from tests.callbacks.toy import Painter, draw, draw_and_die, planned
from tests.ddp import run_ddp


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records(folder: Path, name: str = "metadata.jsonl") -> list[dict[str, Any]]:
    return read_lines(folder / name)


def draw_on_rank(rank: int, size: int, folder: Path, count: int, word: str, fail_on: int | None = None) -> str:
    painter = Painter(fail_at=6 if rank == fail_on else None)
    try:
        draw(folder, painter, planned(count, word))
    except RuntimeError as error:
        return str(error)
    return "done"


def test_the_manifest_follows_the_imagefolder_convention(tmp_path: Path) -> None:
    counts = draw(tmp_path, Painter(), planned(10))
    assert counts == {"keep": 10}
    found = records(tmp_path)
    assert [tuple(record) for record in found] == [FIELDS] * 10
    for number, record in enumerate(found):
        assert record["file_name"] == f"images/{number:06d}.png"
        assert hashlib.sha256((tmp_path / record["file_name"]).read_bytes()).hexdigest() == record["sha256"]
    assert found[3]["class_name"] == "odd"
    assert found[3]["verdict"] == "keep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "metadata.jsonl", "rejected.jsonl"]


def test_the_set_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    for size in (1, 3, 64):
        draw(tmp_path / str(size), Painter(batch_size=size), planned(30, "few sometimes"), Gate(retries=8))
    assert tree(tmp_path / "1") == tree(tmp_path / "3") == tree(tmp_path / "64")


def test_rejected_images_are_drawn_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    counts = draw(tmp_path, Painter(), planned(20, "sometimes"), Gate(retries=2))
    found, rejected = records(tmp_path), records(tmp_path, "rejected.jsonl")
    assert counts["keep"] == len(found)
    assert counts["unsafe"] == len(rejected) > 0
    assert max(record["attempt"] for record in found) in (1, 2)
    assert {record["verdict"] for record in rejected} == {"unsafe"}
    lost = {r["file_name"] for r in rejected} - {r["file_name"] for r in found}
    assert all(sum(r["file_name"] == name for r in rejected) == 3 for name in lost)
    assert len(list((tmp_path / "images").iterdir())) == len(found)


def test_duplicates_keep_the_lowest_number(tmp_path: Path) -> None:
    # Six pictures exist in all: no more than six can stay.
    counts = draw(tmp_path, Painter(), planned(20, "few"), Gate(retries=30))
    found = records(tmp_path)
    assert counts["keep"] == len(found) == 6
    assert len({record["sha256"] for record in found}) == 6
    assert found[0]["file_name"] == "images/000000.png"
    assert len(list((tmp_path / "images").iterdir())) == 6


def test_a_set_without_any_good_image_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rejected every image .*constant 80.*synthesize\.gate"):
        draw(tmp_path, Painter(), planned(20, "blank"))
    assert not (tmp_path / "metadata.jsonl").exists()


@pytest.mark.parametrize("chunks", [0, 3])
def test_killed_between_image_and_record_then_finished(tmp_path: Path, chunks: int) -> None:
    process = get_context("forkserver").Process(target=draw_and_die, args=(tmp_path / "killed", 20, chunks))
    process.start()
    process.join(120)
    assert process.exitcode == -9
    killed = tmp_path / "killed"
    assert len(list((killed / "images").glob("*.png"))) == 4 * chunks + 4
    assert not (killed / "metadata.jsonl").exists()
    painter = Painter()
    draw(killed, painter, planned(20))
    assert painter._drawn == 20 - 4 * chunks
    draw(tmp_path / "whole", Painter(), planned(20))
    assert tree(killed) == tree(tmp_path / "whole")


def test_torn_records_and_damaged_images_are_drawn_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="brush"):
        draw(tmp_path, Painter(fail_at=13), planned(20))
    file = tmp_path / "partial" / "images-0.jsonl"
    content = file.read_text()
    assert len(content.splitlines()) == 12
    file.write_text(content[:-9])
    (tmp_path / "images" / "000002.png").write_bytes(b"torn")
    (tmp_path / "images" / "000005.png").unlink()
    (tmp_path / "images" / "000019.png.tmp").touch()
    painter = Painter()
    draw(tmp_path, painter, planned(20))
    assert painter._drawn == 20
    draw(tmp_path / "whole", Painter(), planned(20))
    whole = tree(tmp_path / "whole")
    assert {name: value for name, value in tree(tmp_path).items() if not name.startswith("whole")} == whole


def test_a_killed_retry_is_finished_with_the_same_set(tmp_path: Path) -> None:
    prompts = planned(30, "few sometimes")
    draw(tmp_path / "whole", Painter(), prompts, Gate(retries=8))
    for stop in (33, 38, 50):
        with pytest.raises(ValueError, match="brush"):
            draw(tmp_path / "stopped", Painter(fail_at=stop), prompts, Gate(retries=8))
    draw(tmp_path / "stopped", Painter(), prompts, Gate(retries=8))
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")


def test_two_processes_make_the_set_of_one_and_finish_each_other(tmp_path: Path) -> None:
    draw(tmp_path / "one", Painter(), planned(30, "sometimes"))
    assert run_ddp(draw_on_rank, tmp_path / "two", 30, "sometimes") == ["done", "done"]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    # Rank 1 breaks off: both end with its traceback, and what they made is used by one process.
    messages = run_ddp(draw_on_rank, tmp_path / "broken", 30, "sometimes", 1)
    assert messages[0] == messages[1]
    assert "rank 1 of 2 failed" in messages[0]
    assert "the brush broke" in messages[0]
    painter = Painter()
    draw(tmp_path / "broken", painter, planned(30, "sometimes"))
    assert tree(tmp_path / "one") == tree(tmp_path / "broken")
    retries = len(records(tmp_path / "one", "rejected.jsonl"))
    assert painter._drawn < 30 + retries


def test_a_full_disk_ends_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000009.png.tmp").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"no space left for .*images: free some space"):
        draw(tmp_path, Painter(), planned(20))
    (tmp_path / "images" / "000009.png.tmp").unlink()
    painter = Painter()
    draw(tmp_path, painter, planned(20))
    assert painter._drawn == 12
    assert json.loads((tmp_path / "metadata.jsonl").read_text().splitlines()[-1])["file_name"] == "images/000019.png"
