"""Reads what W&B has written offline."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 2**15, 7
FULL, LAST = 1, 4


def records(file: Path) -> Iterator[Any]:
    """Read the records of an offline run (LevelDB's log format, W&B's messages)."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    content, place, parts = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # no room for a header: padded
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            record = messages.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(file: Path) -> dict[str, list[Any]]:
    """Everything that was logged, by key, in its order."""
    found: dict[str, list[Any]] = {}
    for record in records(file):
        for item in record.history.item if record.WhichOneof("record_type") == "history" else []:
            found.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return found


def config(file: Path) -> dict[str, Any]:
    """The run's configuration."""
    found: dict[str, Any] = {}
    for record in records(file):
        if record.WhichOneof("record_type") in ("run", "config"):
            updates = record.run.config if record.WhichOneof("record_type") == "run" else record.config
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates.update}
    return found


def artifacts(file: Path) -> dict[tuple[str, str], Path]:
    """The files of the run's artifacts on the disk, by the type of the artifact and their path in it."""
    found = {}
    for record in records(file):
        if record.WhichOneof("record_type") == "artifact":
            for own in record.artifact.manifest.contents:
                found[record.artifact.type, own.path] = Path(own.local_path)
    return found
