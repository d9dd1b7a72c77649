"""Keeping on the disk what takes long to build or to fetch, once for all processes."""

import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

log = logging.getLogger("diffubias")


def kept(path: Path, build: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Reads an array from a file, or builds it and writes the file.

    The name of the file must tell everything that decides the content. A file that is damaged (zip archives carry
    checksums) is built again. It is written under another name first, so that a kill leaves no half file and
    of several processes that want it one builds it, while the others wait. Where it cannot be written, the array is
    built at every start, and the log says so.

    Args:
        path: The file, `*.npz`; its folder is made.
        build: Builds the array.

    Returns:
        The array.
    """
    is_there = path.exists()
    array = _read(path)
    if array is not None:
        return array
    with one_at_a_time(path.parent):
        if not is_there:  # another process may have built it meanwhile
            array = _read(path)
        if array is None:
            array = build()
            _keep(path, array)
    return array


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process at a time fetch or build something in a folder; all at once where none can be locked.

    Args:
        folder: The folder; it is made.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / ".lock"))
        except OSError as error:
            log.debug("%s cannot be locked: %s", folder, error)
        yield


def _read(path: Path) -> NDArray[np.uint8] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            array: NDArray[np.uint8] = file["array"]
            return array
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s): it is built again", path, " ".join(str(error).split()))
        return None


def _keep(path: Path, array: NDArray[np.uint8]) -> None:
    try:
        _write(path, array)
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): what is in it is built at every start; set data.cache_dir to a folder that "
            "can be written",
            path,
            error.strerror,
        )


def _write(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, array=array)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
