"""Keeping on the disk what takes long to build."""

import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("diffubias")


def kept(path: Path, build: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Reads an array from a file, or builds it and writes the file.

    The name of the file must tell everything that decides the content. A file that is damaged (zip archives carry
    checksums) is built again. It is written under another name first, so that a kill leaves no half file and
    processes that build the same array at once do not disturb each other. Where it cannot be written, the array is
    built at every start, and the log says so.

    Args:
        path: The file, `*.npz`; its folder is made.
        build: Builds the array.

    Returns:
        The array.
    """
    array = _read(path)
    if array is None:
        array = build()
        try:
            _write(path, array)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): what is in it is built at every start; set data.cache_dir to a folder "
                "that can be written",
                path,
                error.strerror,
            )
    return array


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


def _write(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, array=array)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
