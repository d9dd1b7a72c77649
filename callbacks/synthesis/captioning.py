"""The captioning step: every mined image gets its texts, in chunks, over ranks, resumable; others on request."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from callbacks.synthesis.captioner import BaseCaptioner
from callbacks.synthesis.distributed import agree, gather, on_rank_zero, one_after_another
from callbacks.synthesis.files import append_lines, make_folder, mend_lines, read_json, write_json
from callbacks.synthesis.losses import read_losses
from callbacks.synthesis.manifest import CAPTIONS, CONTRAST, LOSSES, PARTIAL, SELECTION
from callbacks.synthesis.part import check_fingerprint, digest, plain
from callbacks.synthesis.plan import make_seed
from callbacks.synthesis.progress import Progress
from lightning_modules.distributed import rank, world_size
from lightning_modules.errors import ConfigError

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
    file: str = CAPTIONS,
) -> list[list[str]]:
    """Caption some training images and write ``captions.json``. Collective; the captioner stays loaded.

    Chunk c holds the same images on any number of ranks, and each caption has a seed of its own made from the run seed,
    the image and the caption's number; so texts do not depend on the rank count.

    Args:
        directory: The synthetic folder.
        captioner: Who writes.
        items: The images: dicts with ``index`` and ``label``.
        source_image: Gives the picture of a training image.
        seed: Run seed.
        device: Where the captioner computes.
        first_on_node: Whether this rank may fetch the model for its node.
        progress: How to show progress.
        file: Name of the file.

    Returns:
        The texts of every item, in order.
    """
    fingerprint = {
        "captioner": captioner.settings(),
        "seed": seed,
        "selection": digest([item["index"] for item in items]),
    }
    done = on_rank_zero(lambda: _read_done(directory / file, fingerprint, [item["index"] for item in items]))
    size = captioner.batch_size
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    todo = [chunk for chunk in chunks if any(item["index"] not in done for item in chunk)]
    if todo:
        one_after_another(lambda: captioner.load(device), first_on_node)
        bar = (progress or Progress()).bar(
            f"captioning ({Path(file).stem})" if file != CAPTIONS else "captioning", len(items), "images", len(done)
        )
        with bar:
            for start in range(0, len(todo), world_size()):
                chunk = todo[start + rank()] if start + rank() < len(todo) else []
                new = agree(partial(_caption_chunk, directory / file, captioner, chunk, source_image, seed))
                for records in gather(new):
                    bar.add(sum(record["index"] not in done for record in records))
                    done.update({record["index"]: record["captions"] for record in records})
    texts = [done[item["index"]] for item in items]
    on_rank_zero(lambda: _finish(directory / file, fingerprint, items, texts))
    return texts


def write_contrast(
    directory: Path,
    captioner: BaseCaptioner,
    count: int,
    source_image: Callable[[int], Image.Image],
    seed: int,
    device: torch.device,
    first_on_node: bool = True,
    progress: Progress | None = None,
) -> int:
    """Caption the training images with the lowest losses and write ``contrast.json``. Collective.

    They show what the biased model relies on, and nothing is drawn from them. What an earlier call has finished stays.

    Args:
        directory: The synthetic folder, with what the mining left there.
        captioner: Who writes; it stays loaded.
        count: Images of each class.
        source_image: Gives the picture of a training image.
        seed: Run seed.
        device: Where the captioner computes.
        first_on_node: Whether this rank may fetch the model for its node.
        progress: How to show progress.

    Returns:
        How many images were captioned now.

    Raises:
        ConfigError: The mining left no losses.
    """

    def choose() -> list[dict[str, Any]]:
        if (directory / CONTRAST).is_file():
            return []
        losses = read_losses(directory)
        if losses is None or not (directory / SELECTION).is_file():
            raise ConfigError(
                f"explain: {directory / LOSSES} or {SELECTION} is missing, so that the images with the lowest losses"
                " are not known: mine anew in a fresh run_dir"
            )
        mined = {item["index"] for item in read_json(directory / SELECTION)["items"]}
        return [{"index": index, "label": int(losses.label[index])} for index in losses.lowest(count, mined)]

    items = on_rank_zero(choose)
    if items:
        write_captions(directory, captioner, items, source_image, seed, device, first_on_node, progress, CONTRAST)
    return len(items)


def _read_done(final: Path, fingerprint: dict[str, Any], indices: list[int]) -> dict[int, list[str]]:
    """Return the captions on disk by image, from the finished file or from what a killed run left."""
    header = final.parent / PARTIAL / final.name
    made = "filter.json, plan.json, images and " if final.name == CAPTIONS else ""
    remedy = f"delete {final.name}, {made}{PARTIAL} in {final.parent} to caption anew"
    if final.is_file():
        stored = read_json(final)
        check_fingerprint(final, stored.get("fingerprint"), fingerprint, remedy)
        return {item["index"]: item["captions"] for item in stored["items"]}
    make_folder(header.parent)
    if header.is_file():
        check_fingerprint(header, read_json(header), fingerprint, remedy)
    else:
        write_json(header, plain(fingerprint))
    found = [record for path in sorted(header.parent.glob(f"{final.stem}-*.jsonl")) for record in mend_lines(path)]
    wanted = set(indices)
    return {record["index"]: record["captions"] for record in found if record["index"] in wanted}


def _caption_chunk(
    final: Path,
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
    append_lines(final.parent / PARTIAL / f"{final.stem}-{rank()}.jsonl", records)
    return records


def _finish(final: Path, fingerprint: dict[str, Any], items: list[dict[str, Any]], texts: list[list[str]]) -> None:
    if not final.is_file():
        listed = [
            {"index": item["index"], "label": item["label"], "captions": own}
            for item, own in zip(items, texts, strict=True)
        ]
        write_json(final, {"fingerprint": plain(fingerprint), "items": listed})
    for path in (final.parent / PARTIAL).glob(f"{final.stem}*"):
        path.unlink()
