"""Writing that survives a kill at any moment, and reading what such a kill left behind.

A killed process loses nothing it has written, since the page cache survives it; only a power cut needs fsync. So
records are fsynced once a chunk, images are not (their SHA-256 is checked on resume, a bad one is drawn again), and
``flush_disks`` settles everything once before the manifest declares the set complete.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_modules.errors import ConfigError


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into one line that names the folder and the remedy.

    Raises:
        ConfigError: The disk or the quota is full, or the folder may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ConfigError(
                f"no space left for {folder}: free some space and run the same command again, what is done is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ConfigError(f"{folder} cannot be written ({error.strerror}): choose another run_dir") from error
        raise


def write_bytes(path: Path, content: bytes | memoryview, sync: bool = True) -> None:
    """Write a file so that its name never stands for half a content: temporary file, (fsync,) ``os.replace``.

    Raises:
        ConfigError: The disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    with disk(path.parent):
        with open(temporary, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        ConfigError: It is torn or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it and run the same command again") from error


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines atomically, streaming; return how many."""
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with disk(path.parent):
        with open(temporary, "w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    return count


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines in one write and fsync them.

    Raises:
        ConfigError: The disk is full.
    """
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    with disk(path.parent), open(path, "ab", buffering=0) as file:
        written = 0
        while written < len(content):
            written += file.write(content[written:])
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines up to what a kill left torn; none without the file."""
    return _whole_lines(path)[0]


def mend_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, and cut off what a kill left torn at the end so that appending goes on cleanly."""
    records, size = _whole_lines(path)
    if path.is_file() and size < path.stat().st_size:
        with disk(path.parent):
            os.truncate(path, size)
    return records


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records before the first torn line, and their bytes."""
    records: list[dict[str, Any]] = []
    size = 0
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    records.append(json.loads(line))
                except ValueError:
                    break
                size += len(line)
    return records, size


def make_folder(folder: Path) -> None:
    """Create a folder with its parents.

    Raises:
        ConfigError: It cannot be created.
    """
    with disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{folder} is not a folder: move that file away or choose another run_dir") from error


def flush_disks() -> None:
    """Wait until everything written so far is on the disks (protects against a power cut, not needed for a kill)."""
    os.sync()


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
