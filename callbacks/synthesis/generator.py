"""Prompts to images, through any diffusers text-to-image pipeline."""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L  # noqa: N812
import numpy as np
import numpy.typing as npt
import torch

from callbacks.synthesis.distributed import on_rank_zero
from callbacks.synthesis.part import Part
from callbacks.synthesis.plan import Prompt
from callbacks.synthesis.schedulers import make_scheduler
from lightning_modules.errors import ConfigError
from lightning_modules.pretrained import (
    Source,
    check_source,
    find_source,
    free_memory,
    load,
    load_model,
    pick_dtype,
    weights_digest,
)
from lightning_modules.text_to_image import TextToImage

LOGGER = logging.getLogger("diffubias")
KEY = "synthesize.generator"
# where a stage leaves the model that it has fitted, in its folder
MODEL = "model"
DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DEFAULT_REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


@dataclass(frozen=True)
class Sample:
    """One drawn image.

    Attributes:
        image: uint8 [H, W, 3], or None where the numbers were no image.
        unsafe: The pipeline's safety checker blacked it out.
        nan: It held values that are not numbers.
    """

    image: npt.NDArray[np.uint8] | None
    unsafe: bool = False
    nan: bool = False


class Generator(Part, ABC):
    """Draws images.

    Attributes:
        batch_size: Prompts a call of :meth:`sample` should get.
        draws_from: What an image is drawn from where images are mined: ``captions`` of mined images; ``classes``, which
            need no caption; or ``images``, real ones that were not mined and that are turned into others.
    """

    batch_size: int = 8
    draws_from: ClassVar[Literal["captions", "classes", "images"]] = "captions"

    def check(self, module: L.LightningModule | None, data: Any) -> None:
        """Find out cheaply whether this will be able to draw; called before the fit that precedes the synthesis.

        Args:
            module: What is fitted then, None where nothing is.
            data: The data module that it is fitted on.
        """

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Bring the model to ``device``; called before each round of drawing, what is loaded stays."""

    def learn_from(self, module: L.LightningModule, data: Any, folder: Path) -> None:
        """Take what the stage before the synthesis has fitted, if this generator draws with that. Collective.

        Args:
            module: The fitted module.
            data: The data module that it was fitted on.
            folder: Where to put a model, a place of its own in the folder of that stage.
        """

    def fingerprint(self) -> str:
        """Return what tells the model of the stage before from another one; "" where nothing is taken from there."""
        return ""

    @abstractmethod
    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        """Draw one image a prompt; an image is a function of its prompt and its seed, up to rounding."""

    def prompt(self, caption: str) -> str:
        """Turn a caption into the prompt that is drawn."""
        return caption

    def expected_size(self) -> tuple[int, int] | None:
        """Return (width, height) in pixels that every image must have, None where any will do."""
        return None

    def truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Return how many prompts each text encoder cuts, by the name of its tokenizer."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says about the origin: generator, revision, steps, guidance."""
        return {"generator": type(self).__name__, "revision": None, "steps": None, "guidance": None}

    def release(self) -> None:
        """Give the memory back."""


class DiffusersGenerator(Generator):
    """Stable Diffusion 1.5, 2, XL, 3, PixArt, ... : the pipeline class stands in the model's own ``model_index.json``.

    Image i starts from noise of its own CPU generator, so that ``pipeline(prompt, generator=torch.Generator("cpu")
    .manual_seed(seed))`` draws the image of any manifest record again. After a stage that has fitted
    :class:`TextToImage` it draws with what that has learnt, in place of ``model``.

    Args:
        model: Hub id or local folder written by ``save_pretrained``.
        revision: Commit of the hub repository; null takes the pinned one of the default model, else the newest.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale (Ho & Salimans 2022).
        scheduler: Class name in diffusers to use in place of the model's own, for example DPMSolverMultistepScheduler.
        width: Pixels; null for the model's own size.
        height: Pixels; null for the model's own size.
        negative_prompt: What not to draw.
        prompt_template: Text around the caption; ``{caption}`` stands for it.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        batch_size: Images a batch; changes the speed only, up to rounding.
        download: Whether the model may be fetched; without it nothing touches the network.
        extra: Further arguments of the pipeline's call.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        revision: str | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        scheduler: str | None = None,
        width: int | None = None,
        height: int | None = None,
        negative_prompt: str | None = None,
        prompt_template: str = "{caption}",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        batch_size: int = 8,
        download: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if steps < 1 or batch_size < 1:
            raise ConfigError(f"{KEY}: steps and batch_size must be at least 1, got {steps} and {batch_size}")
        if "{caption}" not in prompt_template:
            raise ConfigError(f"{KEY}.prompt_template must hold {{caption}}, got {prompt_template!r}")
        self.model = model
        self.revision = revision
        self.steps = steps
        self.guidance = guidance
        self.scheduler = scheduler
        self.width = width
        self.height = height
        self.negative_prompt = negative_prompt
        self.prompt_template = prompt_template
        self.dtype = dtype
        self.batch_size = batch_size
        self.download = download
        self.extra = dict(extra or {})
        self._fitted: Path | None = None
        self._origin = model
        self._pipeline: Any = None

    def prompt(self, caption: str) -> str:
        """Put the caption into ``prompt_template``."""
        return self.prompt_template.replace("{caption}", caption)

    def expected_size(self) -> tuple[int, int] | None:
        """Return the configured size, None where the model's own is taken."""
        return (self.width, self.height) if self.width and self.height else None

    def describe(self) -> dict[str, Any]:
        """Return model, revision, steps and guidance."""
        return {
            "generator": self.model if self._fitted is None else f"{self._origin}, fine-tuned ({self.fingerprint()})",
            "revision": self._source.revision,
            "steps": self.steps,
            "guidance": self.guidance,
        }

    def check(self, module: L.LightningModule | None, data: Any) -> None:
        """Look whether the pipeline is there, unless it comes from the stage before.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.check_source`; a scheduler that does not go with the
                model; an option that the pipeline lacks.
        """
        import diffusers

        library: Any = diffusers
        if isinstance(module, TextToImage):  # what it makes has the parts of the model that it starts from
            source = replace(module.source, key=f"{KEY}.model")
        else:
            source = self._source
            check_source(source, "model_index.json")
        parts = load(source, lambda: library.DiffusionPipeline.load_config(source.location, **source.options))
        pipeline, own = (
            getattr(library, str(name), None) for name in (parts.get("_class_name"), parts.get("scheduler", [""])[-1])
        )
        if pipeline is not None:
            self._check_arguments(pipeline)
        if self.scheduler is not None and own is not None:
            place = {"subfolder": "scheduler", **source.options}
            make_scheduler(self.scheduler, load(source, lambda: own.from_pretrained(source.location, **place)))

    def learn_from(self, module: L.LightningModule, data: Any, folder: Path) -> None:
        """Draw with the fine-tuned model, if the stage before has made one."""
        if isinstance(module, TextToImage):
            on_rank_zero(lambda: module.export(folder, data))
            self._fitted, self._origin = folder, module.hparams["model"]
            vars(self).pop("_source", None)  # what was found before

    def fingerprint(self) -> str:
        """Return a digest of the fine-tuned weights."""
        return "" if self._fitted is None else self._digest

    @cached_property
    def _digest(self) -> str:
        assert self._fitted is not None
        return weights_digest(self._fitted)

    @cached_property
    def _source(self) -> Source:
        if self._fitted is not None:
            return find_source(str(self._fitted), None, False, f"{KEY}.model")
        pinned = DEFAULT_REVISION if self.model == DEFAULT_MODEL else None
        return find_source(self.model, self.revision or pinned, self.download, f"{KEY}.model")

    def load(self, device: torch.device) -> None:
        """Load the pipeline.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load` and :meth:`check`.
        """
        if self._pipeline is not None:
            return
        import diffusers

        pipeline = load_model(self._source, diffusers.DiffusionPipeline, pick_dtype(self.dtype, device))
        if self.scheduler is not None:
            pipeline.scheduler = make_scheduler(self.scheduler, pipeline.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        self._check_arguments(type(pipeline))
        self._pipeline = pipeline.to(device)

    def _check_arguments(self, pipeline: Any) -> None:
        wanted = {"prompt", "generator", "num_inference_steps", "guidance_scale", "output_type", *self._options()}
        missing = sorted(wanted - set(inspect.signature(pipeline.__call__).parameters))
        if missing:
            raise ConfigError(f"{KEY}: {pipeline.__name__} has no argument {', '.join(missing)}")

    def release(self) -> None:
        """Drop the pipeline."""
        self._pipeline = None
        free_memory()

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
        """Draw a batch."""
        if self._pipeline is None:
            raise RuntimeError("call load() before sample()")
        options = self._options()
        if "negative_prompt" in options:
            options["negative_prompt"] = [options["negative_prompt"]] * len(prompts)
        output = self._pipeline(
            prompt=[self.prompt(prompt.caption) for prompt in prompts],
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            output_type="np",
            **options,
        )
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        return [to_sample(image, bool(flag)) for image, flag in zip(output.images, unsafe, strict=True)]

    def truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Count the prompts that are longer than each tokenizer's limit."""
        parameters = inspect.signature(self._pipeline.__call__).parameters
        counts: dict[str, int] = {}
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            part = getattr(self._pipeline, name, None)
            tokenizer = getattr(part, "tokenizer", part)  # some pipelines have a processor there
            if tokenizer is None:
                continue
            limit = int(tokenizer.model_max_length)
            # CLIP encoders are cut by their position table, all others by the pipeline's argument
            if "CLIP" not in type(tokenizer).__name__ and "max_sequence_length" in parameters:
                limit = self.extra.get("max_sequence_length", parameters["max_sequence_length"].default)
            lengths = (len(ids) for ids in tokenizer(list(prompts), verbose=False).input_ids)
            counts[name] = sum(length > limit for length in lengths)
        return counts

    def _options(self) -> dict[str, Any]:
        """Return the arguments of the call that were asked for."""
        named = {"width": self.width, "height": self.height, "negative_prompt": self.negative_prompt}
        return {**{name: value for name, value in named.items() if value is not None}, **self.extra}


def to_sample(image: npt.NDArray[np.floating[Any]], unsafe: bool) -> Sample:
    """Turn floats [H, W, C] in 0..1 into a sample; NaN and infinity are flagged and not converted."""
    if not np.isfinite(image).all():
        return Sample(None, unsafe, nan=True)
    return Sample(np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8), unsafe)
