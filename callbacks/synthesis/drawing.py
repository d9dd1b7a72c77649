"""The drawing step: every planned image is drawn, judged and recorded, in chunks, over ranks, resumable."""

import hashlib
import io
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from callbacks.side_product import side_product
from callbacks.synthesis.distributed import agree, gather, on_rank_zero, one_after_another
from callbacks.synthesis.files import (
    append_lines,
    flush_disks,
    make_folder,
    mend_lines,
    read_json,
    write_bytes,
    write_json,
)
from callbacks.synthesis.gate import Gate
from callbacks.synthesis.generator import Generator, Sample
from callbacks.synthesis.judge import Judge
from callbacks.synthesis.manifest import IMAGES, PARTIAL, image_name, write_manifest
from callbacks.synthesis.plan import Prompt, make_seed
from callbacks.synthesis.progress import Bar, Progress
from lightning_modules.distributed import rank, world_size
from lightning_modules.errors import ConfigError

LOGGER = logging.getLogger("diffubias")
KEEP = "keep"
SEED_TAG = 2
Records = dict[tuple[int, int], dict[str, Any]]


@dataclass
class Drawing:
    """A synthetic set in the making.

    Image n of attempt a is a function of (run seed, n, a). The work goes in rounds: first all images, then those that
    the gate turned down, with their next seed. A round's chunks hold the same images on any number of ranks, and
    duplicates and agreement with the label are decided between rounds from all records; so the set does not depend on
    the rank count.

    Attributes:
        directory: The synthetic folder.
        generator: Who draws.
        gate: Who judges.
        planned: The prompt of image 0, 1, 2, ...
        class_names: Names of the classes, by label.
        bias_names: Names of the bias attributes; () where they have none.
        seed: Run seed.
        progress: How to show progress.
    """

    directory: Path
    generator: Generator
    gate: Gate
    planned: Sequence[Prompt]
    class_names: Sequence[str]
    bias_names: Sequence[str]
    seed: int
    progress: Progress = field(default_factory=Progress)

    def run(self, device: torch.device, first_on_node: bool = True) -> Counter[str]:
        """Draw what is missing and write the manifest. Collective.

        Args:
            device: Where the generator computes.
            first_on_node: Whether this rank may fetch the model for its node.

        Returns:
            How often each verdict was given.

        Raises:
            ConfigError: No image came through the gate; the disk is full; the model cannot be loaded.
        """
        records = on_rank_zero(self._read_records)
        kept: dict[int, dict[str, Any]] = {}
        rejected: list[dict[str, Any]] = []
        seen: dict[str, int] = {}
        pending = list(range(len(self.planned)))
        left_out: list[int] = []
        for attempt in range(self.gate.retries + 1):
            self._draw_round(pending, attempt, records, device, first_on_node)
            drawn = {number: records[number, attempt] for number in pending}
            passed = {number: record["sha256"] for number, record in drawn.items() if record["verdict"] == KEEP}
            repeats = self.gate.duplicates(passed.items(), seen)
            scores = self._judge(sorted(passed.keys() - repeats), attempt, device, first_on_node)
            dropped: set[int] = set()
            for number, record in drawn.items():
                verdict, score = record["verdict"], scores.get(number)
                if number in repeats:
                    verdict = "duplicate"
                elif self.gate.is_mismatch(score):
                    verdict = "mismatch"
                    if self.gate.mismatch == "drop":
                        dropped.add(number)
                full = self._describe(number, attempt, verdict, record["sha256"], score)
                if verdict == KEEP:
                    kept[number] = full
                else:
                    rejected.append(full)
            left_out += sorted(dropped)
            pending = [number for number in pending if number not in kept and number not in dropped]
            if not pending:
                break
        self.generator.release()
        counts = Counter(record["verdict"] for record in [*kept.values(), *rejected])
        self._warn(kept, [*left_out, *pending], counts)
        agree(flush_disks)
        on_rank_zero(lambda: self._finish([kept[number] for number in sorted(kept)], rejected))
        return counts

    def _draw_round(
        self, pending: list[int], attempt: int, records: Records, device: torch.device, first_on_node: bool
    ) -> None:
        """Draw attempt ``attempt`` of the pending images that have no record yet, and add their records."""
        size = self.generator.batch_size
        chunks = [pending[start : start + size] for start in range(0, len(pending), size)]
        # A chunk is drawn whole even if a part of it is there, so that its numbers come out the same.
        todo = [chunk for chunk in chunks if any((number, attempt) not in records for number in chunk)]
        if not todo:
            return
        one_after_another(lambda: self.generator.load(device), first_on_node)
        if attempt == 0 and rank() == 0:
            with side_product("the count of prompts that are cut is"):  # tokenizers of pipelines yet to come
                self._warn_truncated()
        done = sum((number, attempt) in records for number in pending)
        title = "drawing" if attempt == 0 else f"drawing again ({attempt})"
        with self.progress.bar(title, len(pending), "images", done) as bar:
            for start in range(0, len(todo), world_size()):
                chunk = todo[start + rank()] if start + rank() < len(todo) else []
                missing = {number for number in chunk if (number, attempt) not in records}
                new = agree(partial(self._draw_chunk, chunk, missing, attempt))
                self._collect(new, records, bar)

    def _collect(self, new: list[dict[str, Any]], records: Records, bar: Bar) -> None:
        """Exchange the new records between the ranks."""
        for own in gather(new):
            records.update({(record["number"], record["attempt"]): record for record in own})
            bar.add(len(own))

    def _judge(
        self, numbers: Sequence[int], attempt: int, device: torch.device, first_on_node: bool
    ) -> dict[int, float]:
        """Return how well these images agree with their labels, by number; nothing without a judge. Collective."""
        judge = self.gate.judge
        if judge is None or not numbers:
            return {}
        file = self.directory / PARTIAL / f"agreement-{attempt}.json"
        stored: dict[str, Any] | None = on_rank_zero(lambda: read_json(file) if file.is_file() else None)
        if stored is not None and stored["numbers"] == list(numbers):
            return dict(zip(numbers, stored["scores"], strict=True))
        self.generator.release()
        one_after_another(lambda: judge.load(device), first_on_node)
        with self.progress.bar("judging", len(numbers), "images") as bar:
            shares = gather(agree(lambda: self._score(judge, numbers[rank() :: world_size()], bar)))
        judge.release()
        scores = {number: score for share in shares for number, score in share.items()}
        on_rank_zero(lambda: write_json(file, {"numbers": numbers, "scores": [scores[number] for number in numbers]}))
        return scores

    def _score(self, judge: Judge, numbers: Sequence[int], bar: Bar) -> dict[int, float]:
        """Let the judge look at some images."""
        scores: dict[int, float] = {}
        for start in range(0, len(numbers), judge.batch_size):
            batch = numbers[start : start + judge.batch_size]
            images = [read_image(self.directory / image_name(number)) for number in batch]
            found = judge.agreement(images, [self.planned[number].label for number in batch], self.class_names)
            if not all(map(math.isfinite, found)):
                raise ConfigError("synthesize.gate.judge: its scores are no numbers; set its dtype to float32")
            scores |= {number: round(score, 5) for number, score in zip(batch, found, strict=True)}
            bar.add(len(batch) * world_size())
        return scores

    def _draw_chunk(self, chunk: list[int], missing: set[int], attempt: int) -> list[dict[str, Any]]:
        """Draw a chunk on this rank: images first, their records after."""
        if not chunk:
            return []
        prompts = [self.planned[number] for number in chunk]
        samples = self.generator.sample(prompts, [self._seed(number, attempt) for number in chunk])
        new = [
            self._keep(number, attempt, sample)
            for number, sample in zip(chunk, samples, strict=True)
            if number in missing
        ]
        append_lines(self.directory / PARTIAL / f"images-{rank()}.jsonl", new)
        return new

    def _keep(self, number: int, attempt: int, sample: Sample) -> dict[str, Any]:
        """Judge one image and write it if it passes; return its record."""
        reason = self.gate.check(sample, self.generator.expected_size())
        record: dict[str, Any] = {"number": number, "attempt": attempt, "verdict": reason or KEEP, "sha256": None}
        if reason is None and sample.image is not None:
            content = encode_png(sample.image)
            record["sha256"] = hashlib.sha256(content).hexdigest()
            write_bytes(self.directory / image_name(number), content, sync=False)
        return record

    def _seed(self, number: int, attempt: int) -> int:
        return make_seed(SEED_TAG, self.seed, number, attempt)

    def _describe(
        self, number: int, attempt: int, verdict: str, sha256: str | None, agreement: float | None
    ) -> dict[str, Any]:
        """Return the manifest's record of one drawing."""
        prompt = self.planned[number]
        return {
            "file_name": image_name(number),
            "label": prompt.label,
            "class_name": self.class_names[prompt.label],
            "bias": prompt.bias,
            "bias_name": self.bias_names[prompt.bias] if prompt.bias >= 0 else None,
            "source_index": prompt.source_index,
            "caption": prompt.caption,
            "prompt": self.generator.prompt(prompt.caption),
            "seed": self._seed(number, attempt),
            "attempt": attempt,
            **self.generator.describe(),
            "verdict": verdict,
            "agreement": agreement,
            "weight": agreement if agreement is not None and self.gate.mismatch == "weigh" else 1.0,
            "sha256": sha256,
        }

    def _read_records(self) -> Records:
        """Return the records that a killed run left, without those whose image is missing or damaged."""
        make_folder(self.directory / IMAGES)
        make_folder(self.directory / PARTIAL)
        found: Records = {}
        for path in sorted((self.directory / PARTIAL).glob("images-*.jsonl")):
            for record in mend_lines(path):
                found[record["number"], record["attempt"]] = record
        # An earlier attempt's file was overwritten by the next one: only the last must be there.
        for number, attempt in dict(sorted(found)).items():
            record = found[number, attempt]
            if record["verdict"] == KEEP and _sha256(self.directory / image_name(number)) != record["sha256"]:
                del found[number, attempt]
        if found:
            LOGGER.info("%d drawings are on disk already and are kept", len(found))
        return found

    def _warn_truncated(self) -> None:
        prompts = sorted({self.generator.prompt(prompt.caption) for prompt in self.planned})
        for name, count in self.generator.truncated(prompts).items():
            if count:
                LOGGER.warning("%d of %d prompts are longer than the limit of %s: cut", count, len(prompts), name)

    def _warn(self, kept: dict[int, dict[str, Any]], left_out: list[int], counts: Counter[str]) -> None:
        """Say what is missing from the set.

        Raises:
            ConfigError: Everything is.
        """
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common() if reason != KEEP)
        if not kept:
            raise ConfigError(
                f"the gate rejected every image of {self.directory} ({reasons}): for nan try "
                "synthesize.generator.dtype=float32, otherwise other prompts or a milder synthesize.gate; "
                "then delete plan.json, images and partial there"
            )
        if left_out and rank() == 0:
            lost = Counter(self.class_names[self.planned[number].label] for number in left_out)
            LOGGER.warning("the gate leaves %d images out: %s", len(left_out), dict(lost))

    def _finish(self, kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> None:
        """Write the manifest last, and clear away what the set does not hold."""
        names = {Path(record["file_name"]).name for record in kept}
        for path in (self.directory / IMAGES).iterdir():
            if path.name not in names and re.fullmatch(r"\d{6,}\.png(\.tmp)?", path.name):
                path.unlink()
        write_manifest(self.directory, kept, sorted(rejected, key=lambda r: (r["file_name"], r["attempt"])))
        shutil.rmtree(self.directory / PARTIAL)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return the PNG file of an image, uint8 [H, W, 3]; lightly compressed, drawing must not wait for zlib."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_image(file: Path) -> Image.Image:
    """Return a drawn picture, mode RGB."""
    with Image.open(file) as image:
        return image.convert("RGB")


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
