"""The captioning step: every mined image gets its texts, in chunks, over ranks, resumable."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from callbacks.synthesis.captioner import BaseCaptioner
from callbacks.synthesis.distributed import agree, gather, on_rank_zero, one_after_another
from callbacks.synthesis.files import append_lines, make_folder, read_json, read_lines, write_json
from callbacks.synthesis.manifest import CAPTIONS, PARTIAL
from callbacks.synthesis.part import check_fingerprint, digest, plain
from callbacks.synthesis.plan import make_seed
from callbacks.synthesis.progress import Progress
from lightning_modules.distributed import rank, world_size

SEED_TAG = 1


def write_captions(
    directory: Path,
    captioner: BaseCaptioner,
    items: list[dict[str, Any]],
    source_image: Callable[[int], Image.Image],
    seed: int,
    device: torch.device,
    first_on_node: bool = True,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Caption the selection and write ``captions.json``. Collective.

    Chunk c holds the same images on any number of ranks, and each caption has a seed of its own made from the run seed,
    the image and the caption's number; so texts do not depend on the rank count.

    Args:
        directory: The synthetic folder.
        captioner: Who writes.
        items: The selection: dicts with ``index`` and ``label``.
        source_image: Gives the picture of a training image.
        seed: Run seed.
        device: Where the captioner computes.
        first_on_node: Whether this rank may fetch the model for its node.
        progress: How to show progress.

    Returns:
        The texts of every item, in order.
    """
    fingerprint = {
        "captioner": captioner.settings(),
        "seed": seed,
        "selection": digest([item["index"] for item in items]),
    }
    done = on_rank_zero(lambda: _read_done(directory, fingerprint, [item["index"] for item in items]))
    size = captioner.batch_size
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    todo = [chunk for chunk in chunks if any(item["index"] not in done for item in chunk)]
    if todo:
        one_after_another(lambda: captioner.load(device), first_on_node)
        bar = (progress or Progress()).bar("captioning", len(items), "images", len(done))
        with bar:
            for start in range(0, len(todo), world_size()):
                chunk = todo[start + rank()] if start + rank() < len(todo) else []
                new = agree(partial(_caption_chunk, directory, captioner, chunk, source_image, seed))
                for records in gather(new):
                    bar.add(sum(record["index"] not in done for record in records))
                    done.update({record["index"]: record["captions"] for record in records})
        captioner.release()
    texts = [done[item["index"]] for item in items]
    on_rank_zero(lambda: _finish(directory, fingerprint, items, texts))
    return texts


def _read_done(directory: Path, fingerprint: dict[str, Any], indices: list[int]) -> dict[int, list[str]]:
    """Return the captions on disk by image, from the finished file or from what a killed run left."""
    final, header = directory / CAPTIONS, directory / PARTIAL / CAPTIONS
    remedy = f"delete {final.name}, filter.json, plan.json, images and partial in {directory} to caption anew"
    if final.is_file():
        stored = read_json(final)
        check_fingerprint(final, stored.get("fingerprint"), fingerprint, remedy)
        return {item["index"]: item["captions"] for item in stored["items"]}
    make_folder(header.parent)
    if header.is_file():
        check_fingerprint(header, read_json(header), fingerprint, remedy)
    else:
        write_json(header, plain(fingerprint))
    found = [record for path in sorted(header.parent.glob("captions-*.jsonl")) for record in read_lines(path)]
    wanted = set(indices)
    return {record["index"]: record["captions"] for record in found if record["index"] in wanted}


def _caption_chunk(
    directory: Path,
    captioner: BaseCaptioner,
    chunk: list[dict[str, Any]],
    source_image: Callable[[int], Image.Image],
    seed: int,
) -> list[dict[str, Any]]:
    if not chunk:
        return []
    images = [source_image(item["index"]) for item in chunk]
    numbers = range(captioner.captions_per_image)
    seeds = [[make_seed(SEED_TAG, seed, item["index"], number) for number in numbers] for item in chunk]
    texts = captioner.caption(images, seeds)
    records = [{"index": item["index"], "captions": own} for item, own in zip(chunk, texts, strict=True)]
    append_lines(directory / PARTIAL / f"captions-{rank()}.jsonl", records)
    return records


def _finish(directory: Path, fingerprint: dict[str, Any], items: list[dict[str, Any]], texts: list[list[str]]) -> None:
    if not (directory / CAPTIONS).is_file():
        listed = [
            {"index": item["index"], "label": item["label"], "captions": own}
            for item, own in zip(items, texts, strict=True)
        ]
        write_json(directory / CAPTIONS, {"fingerprint": plain(fingerprint), "items": listed})
    for path in (directory / PARTIAL).glob("captions*"):
        path.unlink()
