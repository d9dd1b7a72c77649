"""Whether drawn images show what their labels say."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from PIL import Image

from callbacks.synthesis.part import Part
from lightning_modules.errors import ConfigError
from lightning_modules.pretrained import Source, check_source, find_source, free_memory, load, load_model, pick_dtype

KEY = "synthesize.gate.judge"


class Judge(Part, ABC):
    """Tells how well images agree with their labels.

    Attributes:
        batch_size: Images a call of :meth:`agreement` should get.
    """

    batch_size: int = 64

    def check(self, class_names: Sequence[str]) -> None:
        """Find out cheaply whether the model is there and the settings suit the classes; called before the fit.

        Args:
            class_names: Names of the classes, by label.
        """

    def load(self, device: torch.device) -> None:
        """Bring the model to ``device``, if there is one."""

    def release(self) -> None:
        """Give the memory back."""

    @abstractmethod
    def agreement(
        self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
    ) -> list[float]:
        """Score a batch of images.

        Args:
            images: RGB pictures of any size.
            labels: What each is meant to show.
            class_names: Names of the classes, by label.

        Returns:
            For each, the probability in 0..1 that it shows its label.
        """


class ZeroShotJudge(Judge):
    """Compares images with sentences about the classes, by CLIP (Radford et al., arXiv 2103.00020) or its kin.

    The score is the softmax over the classes, of the mean over the templates. It is worth as much as the model knows of
    the classes, and is independent of the training set.

    Args:
        model: Hub id or local folder of a transformers model for zero-shot image classification.
        revision: Commit of the hub repository.
        templates: Sentences in which ``{class}`` stands for the class.
        words: What to call a class, by its name; a class that is left out goes by its name.
        batch_size: Images a batch; changes the speed only.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on a CPU.
        download: Whether the model may be fetched; without it nothing touches the network.
    """

    def __init__(
        self,
        model: str = "openai/clip-vit-base-patch32",
        revision: str | None = None,
        templates: Sequence[str] = ("a photo of a {class}",),
        words: Mapping[str, str] | None = None,
        batch_size: int = 64,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        download: bool = False,
    ) -> None:
        if not templates or any("{class}" not in template for template in templates):
            raise ConfigError(f"{KEY}.templates: every sentence needs {{class}}: write a photo of a {{class}}, say")
        if batch_size < 1:
            raise ConfigError(f"{KEY}.batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.revision = revision
        self.templates = list(templates)
        self.words = dict(words or {})
        self.batch_size = batch_size
        self.dtype = dtype
        self.download = download
        self._network: Any = None
        self._processor: Any = None

    def check(self, class_names: Sequence[str]) -> None:
        """Look whether the model is there.

        Raises:
            ConfigError: ``words`` names a class that is not there; see
                :func:`lightning_modules.pretrained.check_source`.
        """
        if unknown := [name for name in self.words if name not in class_names]:
            raise ConfigError(f"{KEY}.words: there is no class {unknown[0]!r}; there are {', '.join(class_names)}")
        check_source(self._source(), "config.json")

    def _source(self) -> Source:
        return find_source(self.model, self.revision, self.download, f"{KEY}.model")

    def load(self, device: torch.device) -> None:
        """Load model and processor.

        Raises:
            ConfigError: See :func:`lightning_modules.pretrained.load`.
        """
        from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

        source, make = self._source(), cast(Any, AutoProcessor)
        network = load_model(source, AutoModelForZeroShotImageClassification, pick_dtype(self.dtype, device))
        self._processor = load(source, lambda: make.from_pretrained(source.location, **source.options))
        self._network = network.to(device).eval()

    def release(self) -> None:
        """Drop the model."""
        self._network = self._processor = None
        free_memory()

    @torch.inference_mode()
    def agreement(
        self, images: Sequence[Image.Image], labels: Sequence[int], class_names: Sequence[str]
    ) -> list[float]:
        """Score a batch of images."""
        if self._network is None:
            raise RuntimeError("call load() before agreement()")
        names = [self.words.get(name, name.replace("_", " ")) for name in class_names]
        texts = [template.replace("{class}", name) for name in names for template in self.templates]
        # SigLIP has learnt from texts of full length, and reads off their last position
        padding = "max_length" if self._network.config.model_type.startswith("siglip") else True
        inputs = self._processor(
            text=texts, images=list(images), padding=padding, truncation=True, return_tensors="pt"
        ).to(self._network.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._network.dtype)
        logits = self._network(**inputs).logits_per_image.float()
        shares = logits.reshape(len(images), len(names), -1).mean(dim=2).softmax(dim=1)
        scores: list[float] = shares[range(len(images)), list(labels)].tolist()
        return scores
