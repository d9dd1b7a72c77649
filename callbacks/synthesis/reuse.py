"""Taking over the finished synthetic set of another run."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from callbacks.synthesis.files import disk, make_folder, read_json, write_bytes
from callbacks.synthesis.manifest import (
    CAPTIONS,
    CONTRAST,
    FILTER,
    IMAGES,
    LOSSES,
    MANIFEST,
    REJECTED,
    SELECTION,
    is_finished,
)
from callbacks.synthesis.part import digest
from datamodules.manifest import Manifest, read_manifest
from lightning_modules.errors import ConfigError


def finished_set(source: Path, class_names: Sequence[str], bias_names: Sequence[str]) -> Manifest:
    """Read the finished set of another run.

    Args:
        source: The ``synthetic`` folder of that run.
        class_names: Our classes, by label; they must be those of the other set.
        bias_names: Our bias attributes; they must be those that the prompts of the other set asked for, if any.

    Returns:
        Its images.

    Raises:
        ConfigError: There is no finished set, it is of other classes or bias attributes, or an image is missing.
    """
    remedy = "give the synthetic folder of a finished run with the same classes and bias attributes"
    if not is_finished(source):
        raise ConfigError(f"synthesize.reuse: {source / MANIFEST} does not exist: {remedy}")
    try:
        return read_manifest(source, class_names, bias_names, remedy)
    except ConfigError as error:
        raise ConfigError(f"synthesize.reuse: {error}") from error


def take_over(
    source: Path, directory: Path, class_names: Sequence[str], bias_names: Sequence[str], labels: Sequence[int]
) -> int:
    """Link or copy a finished set, its manifest last.

    Args:
        source: The ``synthetic`` folder of another run.
        directory: Ours.
        class_names: Our classes, by label; they must be those of the other set.
        bias_names: Our bias attributes.
        labels: Our training labels; the selection is taken over only if it was made on the same ones, since its
            indices mean nothing elsewhere.

    Returns:
        Number of images.

    Raises:
        ConfigError: See :func:`finished_set`.
    """
    manifest = finished_set(source, class_names, bias_names)
    make_folder(directory / IMAGES)
    with disk(directory):
        for name in manifest.files:
            _link(source / name, directory / name)
        same = _mined_on(source / SELECTION, labels)
        for name in (*((LOSSES, SELECTION) if same else ()), CAPTIONS, CONTRAST, FILTER, REJECTED):
            if (source / name).is_file():
                write_bytes(directory / name, (source / name).read_bytes())
        write_bytes(directory / MANIFEST, (source / MANIFEST).read_bytes())
    return len(manifest)


def _mined_on(selection: Path, labels: Sequence[int]) -> bool:
    """Tell whether a selection was made on a training set with these labels."""
    stored = read_json(selection) if selection.is_file() else {}
    return bool(stored.get("fingerprint", {}).get("labels") == digest(list(labels)))


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)  # what lies there may be of a set that was begun
