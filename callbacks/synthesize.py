"""The step between two fits: from a biased classifier to a synthetic set that contradicts its bias."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812 - the name Lightning's own documentation uses
import torch
from jsonargparse.typing import lazy_instance

from callbacks.chain import BEST
from callbacks.emissions import Meter
from callbacks.side_product import side_product
from callbacks.strip import STRIP, draw_strip
from callbacks.synthesis.captioner import BaseCaptioner, Captioner
from callbacks.synthesis.captioning import write_captions, write_contrast
from callbacks.synthesis.distributed import on_rank_zero
from callbacks.synthesis.drawing import KEEP, Drawing
from callbacks.synthesis.filtering import write_filter
from callbacks.synthesis.gate import Gate
from callbacks.synthesis.generator import MODEL, DiffusersGenerator, Generator
from callbacks.synthesis.manifest import CAPTIONS, CONTRAST, FILTER, MANIFEST, PLAN, SELECTION, is_finished
from callbacks.synthesis.miner import LossMiner, Miner
from callbacks.synthesis.mining import MiningData, precision, write_selection
from callbacks.synthesis.part import digest
from callbacks.synthesis.plan import Count, Prompt, plan_groups, plan_images, without_captions
from callbacks.synthesis.planning import check_plan, write_plan
from callbacks.synthesis.progress import Progress
from callbacks.synthesis.reuse import take_over
from callbacks.synthesis.templates import Prompter
from callbacks.synthesis.text_filter import TextFilter
from lightning_modules import ConfigError, StagedModule
from lightning_modules.pretrained import free_memory

LOGGER = logging.getLogger("diffubias")


class SynthesizeCallback(L.Callback):
    """Mines, captions, filters, draws and judges at the end (or at the start) of a fit (DiffuBias, arXiv 2411.16079).

    Everything passes over the disk, in ``directory``: ``losses.safetensors``, ``selection.json``, ``captions.json``,
    ``filter.json``, ``plan.json``, ``images/`` and, last, ``metadata.jsonl``. What is there is kept, so a killed run
    goes on where it stopped, on any number of ranks; a finished manifest ends the work at once. All ranks must see the
    folder.

    Args:
        prompts: Writes prompts from the names of the classes, as Diffusing DeBias and From Fake to Real do; nothing is
            mined, captioned or filtered then. null mines and captions.
        top_k: Mined images, of each class or of the set, as the miner has it.
        mine_epoch: Which weights of the stage mine: those of its last epoch, or of the one that validation has chosen.
        miner: Chooses the images on which the biased model fails.
        captioner: Describes them, if the generator draws from captions.
        text_filter: Drops captions without a frequent word; null keeps all captions (the paper's ablation).
        generator: Draws from the captions, or from what else it ``draws_from``; null stops after the mining (the
            control that only repeats mined images).
        gate: Rejects images that must not be learned from.
        images: How many to draw: a number per class (per class and bias attribute where ``prompts`` name both),
            ``aligned`` for as many as the class has unmined images, ``captions`` for one a caption or prompt; with
            ``prompts`` also ``uniform`` and ``additive``, see :func:`plan_groups`.
        seed: Seed of captions and images; the chain puts the run's seed where it is null.
        reuse: The ``synthetic`` folder of a finished run to take over in place of a synthesis.
        strip: Rows of the picture ``strip.png`` (mined image, captions, what was drawn from them; or prompts and what
            was drawn from them); 0 for none.
        explain: Images with the lowest losses to caption too, of each class, for "What was the bias?" of the report: it
            compares their words with those of the mined images. They go to ``contrast.json``, and nothing is drawn
            from them. 0 for none.

    Attributes:
        directory: The synthetic folder, set by the chain; ``synthetic`` below the Trainer's root otherwise.
        when: Hook to work in, set by the chain.
        draw: Whether to draw, or to stop with the captions; set by the chain.
        meter: Measures what mining, captioning and generation cost; set by the chain.
    """

    def __init__(
        self,
        top_k: int = 100,
        miner: Miner = lazy_instance(LossMiner),  # noqa: B008 - jsonargparse's way to a default part
        captioner: BaseCaptioner | None = lazy_instance(Captioner),  # noqa: B008
        text_filter: TextFilter | None = lazy_instance(TextFilter),  # noqa: B008
        generator: Generator | None = lazy_instance(DiffusersGenerator),  # noqa: B008
        gate: Gate = lazy_instance(Gate),  # noqa: B008
        images: Count = "aligned",
        seed: int | None = None,
        reuse: Path | None = None,
        strip: int = 8,
        prompts: Prompter | None = None,
        explain: int = 0,
        mine_epoch: Literal["last", "best"] = "last",
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.miner = miner
        self.captioner = captioner
        self.text_filter = text_filter
        self.generator = generator
        self.gate = gate
        self.images = images
        self.seed = seed
        self.reuse = reuse
        self.strip = strip
        self.prompts = prompts
        self.explain = explain
        self.mine_epoch = mine_epoch
        self.directory: Path | None = None
        self.when: Literal["start", "end"] = "end"
        self.draw = True
        self.meter = Meter(enabled=False)
        self._progress = Progress()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Synthesize before the fit, if the chain says so."""
        if self.when == "start":
            self.synthesize(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Synthesize after the fit, if the chain says so."""
        if self.when == "end":
            self.synthesize(trainer, pl_module)

    def synthesize(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the synthetic set to completion. Collective.

        Raises:
            ConfigError: A setting, a model, the disk or an image is wrong; every rank raises the same line.
            RuntimeError: Another failure; the message holds the failing rank's traceback.
        """
        directory = self.directory or Path(trainer.default_root_dir) / "synthetic"
        data: MiningData = trainer.datamodule  # type: ignore[attr-defined]
        self._progress = Progress(trainer.progress_bar_callback is not None)
        if on_rank_zero(lambda: self._is_done(directory)):
            self._say("synthetic set: complete in %s", directory)
            self._draw_strip(directory, data)
            return
        if self.reuse is not None:
            source, labels = Path(self.reuse), data.train_labels().tolist()
            count = on_rank_zero(lambda: take_over(source, directory, data.class_names, data.bias_names, labels))
            self._say("synthetic set: %d images taken over from %s", count, source)
            self._draw_strip(directory, data)
            return
        if self.prompts is not None:
            planned = self.plan_prompts(data)
        else:
            with self.meter.phase("mining", directory / SELECTION):
                items = self._mine(directory, trainer, pl_module, data)
            if self.generator is None:
                return
            if self.reads_captions:
                written = [CAPTIONS, *([CONTRAST] if self.explain else []), *([FILTER] if self.text_filter else [])]
                with self.meter.phase("captioning", *(directory / name for name in written)):
                    prompts = self._describe(directory, trainer, data, items)
            else:
                mined = {item["index"] for item in items}
                from_images = self.generator.draws_from == "images"
                prompts = without_captions(
                    data.train_labels().tolist(), mined, data.class_names, from_images, self._seed
                )
            if not self.draw:
                return
            planned = self._plan_captions(data, items, prompts)
        if self.generator is None:
            raise ConfigError("synthesize.generator is null, but synthesize.prompts ask for images: give a generator")
        self.generator.learn_from(pl_module, data, Path(trainer.default_root_dir) / MODEL)
        self._make_room(trainer, pl_module)
        with self.meter.phase("generation", directory / MANIFEST):
            self._draw(directory, trainer, data, planned, self.generator)
        self._draw_strip(directory, data)

    def _draw_strip(self, directory: Path, data: MiningData) -> None:
        """Draw the picture strip if it is wanted, possible and not there."""

        def draw() -> Path | None:
            wanted = self.strip > 0 and is_finished(directory) and not (directory / STRIP).is_file()
            with side_product("the picture strip is"):
                return draw_strip(data, directory, self.strip) if wanted else None
            return None

        if on_rank_zero(draw):
            self._say("picture strip: %s", directory / STRIP)

    def settings(self) -> dict[str, Any]:
        """Return what determines the set, apart from the data and the biased model."""
        chosen: dict[str, Any] = {
            "images": self.images,
            "seed": self._seed,
            "generator": self.generator.settings() if self.generator else None,
            "gate": self.gate.settings(),
        }
        if self.prompts is not None:
            return {**chosen, "prompts": self.prompts.settings()}
        return {
            **chosen,
            "top_k": self.top_k,
            "miner": self.miner.settings(),
            **({} if self.mine_epoch == "last" else {"mine_epoch": self.mine_epoch}),  # as sets before it was a choice
            "captioner": self.captioner.settings() if self.captioner and self.reads_captions else None,
            "text_filter": self.text_filter.settings() if self.text_filter and self.reads_captions else None,
        }

    @property
    def reads_captions(self) -> bool:
        """Whether what is mined is captioned; nothing is where it is only to be mined, either."""
        return self.generator is None or self.generator.draws_from == "captions"

    @property
    def _seed(self) -> int:
        return abs(self.seed or 0)

    def _is_done(self, directory: Path) -> bool:
        """Tell whether the manifest stands, made with our settings."""
        if not is_finished(directory):
            return False
        plan = directory / PLAN
        # A set that was taken over has no plan: it is what it is.
        if plan.is_file() and self.reuse is None:
            check_plan(plan, self.settings(), "settings")
        return True

    def _mine(
        self, directory: Path, trainer: L.Trainer, pl_module: L.LightningModule, data: MiningData
    ) -> list[dict[str, Any]]:
        start = time.perf_counter()
        device = trainer.strategy.root_device
        rehearsal = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # it leaves no checkpoint
        best = Path(trainer.default_root_dir) / BEST if self.mine_epoch == "best" and not rehearsal else None
        items = write_selection(directory, pl_module, data, self.miner, self.top_k, device, self._progress, best)
        share = precision(items, data.aligned_bias)
        self._make_room(trainer, pl_module)
        known = "" if share is None else f", {share:.1%} of them in conflict with the bias"
        self._say("mining: %d of %d training images%s (%.1f s)",
                  len(items), len(data.train_labels()), known, time.perf_counter() - start)  # fmt: skip
        metrics = {"synthesis/mined": len(items)} | ({} if share is None else {"synthesis/mining_precision": share})
        self._report(trainer, metrics)
        return items

    def _make_room(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take a fitted module off the GPU, where captioner and generator need the room."""
        if self.when == "end" and trainer.strategy.root_device.type == "cuda":
            pl_module.to("cpu")
        if isinstance(pl_module, StagedModule):
            pl_module.make_room()
        free_memory()

    def plan_prompts(self, data: MiningData) -> list[Prompt]:
        """List the images to draw without mining."""
        assert self.prompts is not None
        prompts = self.prompts.prompts(data.class_names, data.bias_names)
        groups = zip(data.train_labels().tolist(), data.train_biases().tolist(), strict=True)
        return plan_groups(prompts, self.images, list(groups), data.synthetic_test)

    def _plan_captions(self, data: MiningData, items: list[dict[str, Any]], prompts: list[Prompt]) -> list[Prompt]:
        """List the images to draw from the captions of mined images."""
        labels = data.train_labels().tolist()
        classes = range(data.num_classes)
        class_counts = [labels.count(label) for label in classes]
        mined_counts = [sum(item["label"] == label for item in items) for label in classes]
        return plan_images(prompts, self.images, class_counts, mined_counts)

    def _describe(
        self, directory: Path, trainer: L.Trainer, data: MiningData, items: list[dict[str, Any]]
    ) -> list[Prompt]:
        """Caption the mined images and keep the captions worth drawing."""
        if self.captioner is None:
            raise ConfigError("synthesize.captioner is null while synthesize.generator is not: give a captioner")
        start = time.perf_counter()
        texts = write_captions(
            directory, self.captioner, items, data.source_image, self._seed,
            trainer.strategy.root_device, trainer.local_rank == 0, self._progress,
        )  # fmt: skip
        prompts = [
            Prompt(item["label"], item["index"], text) for item, own in zip(items, texts, strict=True) for text in own
        ]
        self._say("captioning: %d captions of %d images (%.1f s)",
                  len(prompts), len(items), time.perf_counter() - start)  # fmt: skip
        if self.explain:
            try:
                self.write_contrast(directory, data, trainer.strategy.root_device, trainer.local_rank == 0)
            except ConfigError as error:  # the run can do without
                self._say("%s", error)
        self.captioner.release()
        kept = self._filter(directory, prompts, data.num_classes)
        self._report(trainer, {"synthesis/captions": len(prompts), "synthesis/captions_kept": len(kept)})
        return kept

    def write_contrast(
        self, directory: Path, data: MiningData, device: torch.device, first_on_node: bool = True
    ) -> None:
        """Caption ``explain`` images of each class that have the lowest losses. Collective.

        Args:
            directory: The synthetic folder of a run that has mined.
            data: The training set.
            device: Where the captioner computes.
            first_on_node: Whether this rank may fetch the model for its node.

        Raises:
            ConfigError: There is no captioner, or the mining left no losses.
        """
        if self.captioner is None:
            raise ConfigError("synthesize.captioner is null, so nothing can be explained: give a captioner")
        start = time.perf_counter()
        count = write_contrast(
            directory, self.captioner, self.explain, data.source_image, self._seed, device, first_on_node,
            self._progress,
        )  # fmt: skip
        if count:
            self._say("captioning: %d images with the lowest losses (%.1f s)", count, time.perf_counter() - start)

    def _filter(self, directory: Path, prompts: list[Prompt], num_classes: int) -> list[Prompt]:
        text_filter = self.text_filter
        if text_filter is None:
            self._say("text filter: off, all %d captions stay", len(prompts))
            return prompts
        result = write_filter(directory, text_filter, prompts, num_classes)
        kept = [prompt for prompt, keep in zip(prompts, result["kept"], strict=True) if keep]
        words = ", ".join(word for word, _ in result["words"][:8])
        self._say("text filter: %d of %d captions stay; frequent words: %s, ... (stop words: %s)",
                  len(kept), len(prompts), words, result["stop_words"])  # fmt: skip
        return kept

    def _draw(
        self,
        directory: Path,
        trainer: L.Trainer,
        data: MiningData,
        planned: list[Prompt],
        generator: Generator,
    ) -> None:
        start = time.perf_counter()
        drawn_from = [[prompt.label, prompt.bias, prompt.source_index, prompt.caption] for prompt in planned]
        digests = {"digest": digest(drawn_from), "model": generator.fingerprint()}
        on_rank_zero(lambda: write_plan(directory, self.settings(), digests, planned, data.num_classes))
        drawing = Drawing(
            directory, generator, self.gate, planned, data.class_names, data.bias_names, self._seed, self._progress
        )
        counts = drawing.run(trainer.strategy.root_device, trainer.local_rank == 0)
        seconds = time.perf_counter() - start
        rejects = {reason: count for reason, count in sorted(counts.items()) if reason != KEEP}
        turned_down = ", ".join(f"{reason} {count}" for reason, count in rejects.items()) or "none"
        self._say("drawing: %d of %d images in %s, rejected: %s (%.1f s, %.1f images/s)",
                  counts[KEEP], len(planned), directory, turned_down, seconds, counts.total() / seconds)  # fmt: skip
        metrics = {f"synthesis/rejected_{reason}": count for reason, count in rejects.items()}
        self._report(trainer, {"synthesis/images": counts[KEEP], **metrics})

    def _say(self, message: str, *values: object) -> None:
        """Write a summary line, once for all ranks."""
        on_rank_zero(lambda: LOGGER.info(message, *values))

    def _report(self, trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
        """Hand numbers to the loggers, which are real on rank 0 only."""
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=trainer.global_step)
            logger.save()
