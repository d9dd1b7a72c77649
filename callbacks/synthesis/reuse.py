"""Taking over the finished synthetic set of another run."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from callbacks.synthesis.files import disk, make_folder, write_bytes
from callbacks.synthesis.manifest import CAPTIONS, CONTRAST, FILTER, IMAGES, LOSSES, MANIFEST, REJECTED, SELECTION
from callbacks.synthesis.part import digest
from lightning_modules.errors import ConfigError


def take_over(source: Path, directory: Path, class_names: Sequence[str], labels: Sequence[int]) -> int:
    """Link or copy a finished set, its manifest last.

    Args:
        source: The ``synthetic`` folder of another run.
        directory: Ours.
        class_names: Our classes, by label; they must be those of the other set.
        labels: Our training labels; the selection is taken over only if it was made on the same ones, since its
            indices mean nothing elsewhere.

    Returns:
        Number of images.

    Raises:
        ConfigError: There is no finished set, it is of other classes, or an image is missing.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        raise ConfigError(f"synthesize.reuse: {manifest} does not exist: give the synthetic folder of a finished run")
    make_folder(directory / IMAGES)
    count = 0
    with disk(directory), manifest.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            label = record["label"]
            if not 0 <= label < len(class_names) or class_names[label] != record["class_name"]:
                raise ConfigError(
                    f"synthesize.reuse: {manifest} holds class {label} {record['class_name']!r}, which is not ours: "
                    "reuse a set of the same classes"
                )
            _link(source / record["file_name"], directory / record["file_name"])
            count += 1
        same = _mined_on(source / SELECTION, labels)
        for name in (*((LOSSES, SELECTION) if same else ()), CAPTIONS, CONTRAST, FILTER, REJECTED):
            if (source / name).is_file():
                write_bytes(directory / name, (source / name).read_bytes())
        write_bytes(directory / MANIFEST, manifest.read_bytes())
    return count


def _mined_on(selection: Path, labels: Sequence[int]) -> bool:
    """Tell whether a selection was made on a training set with these labels."""
    if not selection.is_file():
        return False
    stored = json.loads(selection.read_text(encoding="utf-8"))
    return bool(stored.get("fingerprint", {}).get("labels") == digest(list(labels)))


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    if not source.is_file():
        raise ConfigError(f"synthesize.reuse: {source} is missing: give the synthetic folder of a finished run")
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(target.name + ".tmp")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
