"""Images to texts, through any transformers image-text-to-text model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from callbacks.synthesis.part import Part
from callbacks.synthesis.sampling import RowSampler
from lightning_modules.errors import ConfigError
from lightning_modules.pretrained import Source, check_source, find_source, free_memory, load, load_model, pick_dtype
from lightning_modules.reader import Reader

KEY = "synthesize.captioner"


class BaseCaptioner(Part, ABC):
    """Writes captions.

    Attributes:
        captions_per_image: Texts for each image.
        batch_size: Images a call of :meth:`caption` should get.
    """

    captions_per_image: int = 3
    batch_size: int = 8

    def check(self) -> None:
        """Find out cheaply whether the model is there; called before the fit that precedes the synthesis."""

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Bring the model to ``device``; called before captions are written, and does nothing where it is there."""

    @abstractmethod
    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        """Write captions.

        Args:
            images: RGB pictures of any size.
            seeds: For every image one seed a caption; a caption is a function of its image and its seed.

        Returns:
            ``captions_per_image`` texts for every image.
        """

    def release(self) -> None:
        """Give the memory back."""


class Captioner(BaseCaptioner):
    """Samples captions from LLaVA, BLIP, VisionEncoderDecoder and their kin, all texts of a batch in one ``generate``.

    The paper uses LLaVA-Llama-3-8B by XTuner (arXiv 2411.16079, section 3.3) and gives neither prompt nor decoding; the
    authors' code uses BLIP with nucleus sampling at 0.9. A light choice with safetensors is
    ``Salesforce/blip-image-captioning-large``.

    Args:
        model: Hub id or local folder written by ``save_pretrained``.
        revision: Commit of the hub repository.
        prompt: Instruction of a chat model (null: "Describe this image in one sentence."), or the beginning of every
            caption for BLIP-like models (null: none; it is cut off again). Models without a text input take none.
        captions_per_image: Texts for each image.
        max_new_tokens: Longest caption, in tokens.
        temperature: Above 0; small values make the texts alike.
        top_p: Nucleus of the sampling, in (0, 1].
        batch_size: Images a batch; changes the speed only.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        download: Whether the model may be fetched; without it nothing touches the network.
    """

    def __init__(
        self,
        model: str = "xtuner/llava-llama-3-8b-v1_1-transformers",
        revision: str | None = None,
        prompt: str | None = None,
        captions_per_image: int = 3,
        max_new_tokens: int = 60,
        temperature: float = 1.0,
        top_p: float = 0.9,
        batch_size: int = 8,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        download: bool = False,
    ) -> None:
        for name, value in (
            ("captions_per_image", captions_per_image),
            ("max_new_tokens", max_new_tokens),
            ("batch_size", batch_size),
        ):
            if value < 1:
                raise ConfigError(f"{KEY}.{name} must be at least 1, got {value}")
        if temperature <= 0 or not 0 < top_p <= 1:
            raise ConfigError(f"{KEY}: temperature must be above 0 and top_p in (0, 1], got {temperature} and {top_p}")
        self.model = model
        self.revision = revision
        self.prompt = prompt
        self.captions_per_image = captions_per_image
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.batch_size = batch_size
        self.dtype = dtype
        self.download = download
        self._network: Any = None
        self._reader: Reader | None = None

    def check(self) -> None:
        """Look whether the model is there.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.check_source`.
        """
        check_source(self._source(), "config.json")

    def _source(self) -> Source:
        return find_source(self.model, self.revision, self.download, f"{KEY}.model")

    def load(self, device: torch.device) -> None:
        """Load model and processor.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load`.
        """
        if self._network is not None:
            return
        from transformers import AutoModelForImageTextToText

        source = self._source()
        network = load_model(source, AutoModelForImageTextToText, pick_dtype(self.dtype, device))
        self._reader = load(source, lambda: Reader(source, network, self.prompt))
        self._network = network.to(device).eval()

    def release(self) -> None:
        """Drop the model."""
        self._network = self._reader = None
        free_memory()

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        """Write ``captions_per_image`` texts for every image in one batched ``generate``."""
        if self._network is None or self._reader is None:
            raise RuntimeError("call load() before caption()")
        from transformers import LogitsProcessorList

        inputs = self._reader.inputs(images).to(self._network.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._network.dtype)
        rows = [seed for own in seeds for seed in own]
        sampler = RowSampler(rows, self.max_new_tokens, self.temperature, self.top_p)
        prompt = inputs.get("input_ids")
        output = self._network.generate(
            **inputs,
            do_sample=True,
            num_beams=1,
            num_return_sequences=self.captions_per_image,
            max_new_tokens=self.max_new_tokens,
            # The sampler applies both itself; the model's own defaults would come after it.
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            logits_processor=LogitsProcessorList([sampler]),
        )
        if prompt is not None:
            output = drop_prompt(output, prompt.repeat_interleave(self.captions_per_image, dim=0))
        texts = self._reader.decode(output)
        count = self.captions_per_image
        return [texts[start : start + count] for start in range(0, len(texts), count)]


def drop_prompt(output: Tensor, prompt: Tensor) -> Tensor:
    """Cut the prompt off, where the model repeats it.

    Args:
        output: Token ids [R, T] from ``generate``.
        prompt: Token ids [R, P] that went in.

    Returns:
        Token ids of the new text. Encoder-decoder models do not repeat the prompt; BLIP drops its last token.
    """
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        if 0 < length <= output.shape[1] and bool((output[:, :length] == prompt[:, :length]).all()):
            return output[:, length:]
    return output
