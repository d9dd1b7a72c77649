import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.cache import kept

ARRAY = np.random.default_rng(0).integers(0, 256, size=(50, 32, 32, 3), dtype=np.uint8)


def build() -> NDArray[np.uint8]:
    return ARRAY.copy()


def never() -> NDArray[np.uint8]:
    raise AssertionError("built again")


def test_built_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "set.npz"
    assert np.array_equal(kept(path, build), ARRAY)
    assert np.array_equal(kept(path, never), ARRAY)
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "set.npz"]


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "other", "text"])
def test_a_damaged_file_is_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "set.npz"
    kept(path, build)
    content = bytearray(path.read_bytes())
    if damage == "byte":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        np.savez(path, another=ARRAY)
    else:
        path.write_text("not an archive")
    with caplog.at_level(logging.WARNING, "diffubias"):
        assert np.array_equal(kept(path, build), ARRAY)
    assert "set.npz is damaged" in caplog.text
    assert np.array_equal(kept(path, never), ARRAY)


def test_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    for _ in range(2):
        caplog.clear()
        assert np.array_equal(kept(tmp_path / "file" / "set.npz", build), ARRAY)
        assert "cannot be written" in caplog.text
        assert "set data.cache_dir" in caplog.text


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="built again"):
        kept(tmp_path / "set.npz", never)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_what_a_kill_left_is_not_read(tmp_path: Path) -> None:
    kept(tmp_path / "whole.npz", build)
    (tmp_path / "set.npz.0123abcd.tmp").write_bytes((tmp_path / "whole.npz").read_bytes()[:1000])
    assert np.array_equal(kept(tmp_path / "set.npz", build), ARRAY)
    assert np.array_equal(kept(tmp_path / "set.npz", never), ARRAY)


def test_of_several_at_once_one_builds(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    results: list[NDArray[np.uint8]] = []
    built: list[int] = []

    def build_slowly() -> NDArray[np.uint8]:
        built.append(1)
        time.sleep(0.3)
        return build()

    threads = [threading.Thread(target=lambda: results.append(kept(path, build_slowly))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, ARRAY) for result in results)
    assert len(results) == 4
    assert len(built) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "set.npz"]
    assert np.array_equal(kept(path, never), ARRAY)
