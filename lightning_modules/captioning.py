"""A captioner that learns the domain of a data set."""

import json
import logging
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .classifier import Batch
from .errors import ConfigError
from .fine_tuned import FineTunedModule
from .generative import find_texts, pictures
from .pretrained import load, load_model
from .reader import Reader, unknown_words

_log = logging.getLogger("diffubias")
FEW = 0.01  # share of texts whose unknown words are no reason to stop


class CaptionModel(FineTunedModule):
    """Fine-tuning of an image-to-text model: LLaVA, BLIP, VisionEncoderDecoder and their kin.

    The texts are those that the data have (``data.text_column`` of a table), and for images without any sentences with
    the names of the class and, where it is known, bias attribute. Of several one is drawn at random each time. The
    result is a folder that transformers and :class:`Captioner` read. Logs ``train/loss`` and ``val/loss``, the
    cross-entropy of a token.
    """

    key: ClassVar[str] = "model"
    index: ClassVar[str] = "config.json"
    network_settings: ClassVar[tuple[str, ...]] = ("model", "revision", "new_words")

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        download: bool = False,
        prompt: str | None = None,
        templates: tuple[str, ...] = ("a photo of a {class}",),
        new_words: tuple[str, ...] = (),
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
        lr: float = 1e-5,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        """Keep the settings; the model is loaded later.

        Args:
            model: hub id, or local folder written by ``save_pretrained``.
            revision: commit of the hub repository; None takes the newest.
            download: whether the model may be fetched; without it nothing touches the network.
            prompt: instruction of a chat model, the one that it will be asked with; None takes that of the captioner.
            templates: texts of images that have none; ``{class}`` and ``{bias}`` stand for names.
            new_words: words that the model's tokenizer lacks, such as the small one of the embedded captioner.
            freeze_vision: train the language part only.
            gradient_checkpointing: compute the inside of blocks again in the backward pass, which saves memory.
            lr: the learning rate.
            optimizer: the optimizer, everything but its learning rate.
            scheduler: learning-rate scheduler; None keeps the rate.
            scheduler_interval: whether the scheduler counts epochs or optimizer steps.

        Raises:
            ConfigError: there is no template.
        """
        if not templates:
            raise ConfigError(f"{self.key}.templates is empty: give ['a photo of a {{class}}'], say.")
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.network: nn.Module | None = None

    # Building

    def check_fit(self, data: Any) -> None:
        """Refuse texts that the model cannot write, or warn of few.

        Raises:
            ConfigError: see :class:`StagedModule`, or the tokenizer lacks words of more than one text in a hundred.
        """
        super().check_fit(data)
        splits = [find_texts(data, split, self.hparams["templates"]) for split in ("train", "val")]
        texts = {text for split in splits for own in split for text in own}
        unknown, affected = unknown_words(self.source, self.hparams["new_words"], texts)
        if not affected:
            return
        _log.info("words that %s cannot write: %s", self.hparams["model"], json.dumps(unknown, ensure_ascii=False))
        named = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more, see above" if len(unknown) > 10 else "")
        message = f"{self.key}.new_words: {self.hparams['model']} cannot write these words of the texts: {named}"
        if affected > FEW * len(texts):
            raise ConfigError(f"{message}; name them here, or choose another {self.key}.model.")
        _log.warning("%s (%d of %d texts).", message, affected, len(texts))

    def configure_model(self) -> None:
        """Load the model and its processor, once.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if self.network is not None:
            return
        from transformers import AutoModelForImageTextToText

        source = self.source
        with torch.device("cpu"):
            network = load_model(source, AutoModelForImageTextToText, torch.float32)
        self._reader = load(source, lambda: Reader(source, network, self.hparams["prompt"]))
        if self.hparams["new_words"]:
            self._reader.add_words(self.hparams["new_words"], network)
        if self.hparams["freeze_vision"]:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(not ("vision" in name or name.startswith("encoder.")))
        for name, parameter in network.named_parameters():
            if _is_idle(name, network.config):  # DistributedDataParallel would wait for its gradient
                parameter.requires_grad_(False)
        if self.hparams["gradient_checkpointing"]:
            network.gradient_checkpointing_enable()
        self.network = network.train()

    # Training

    def on_fit_start(self) -> None:
        """Read the texts."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        templates = self.hparams["templates"]
        self._texts, self._val_texts = (find_texts(data, split, templates) for split in ("train", "val"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of the tokens of a text that is drawn for each image."""
        texts = [self._texts[index] for index in batch["index"].tolist()]
        chosen = [own[int(torch.randint(len(own), ()))] for own in texts]
        loss = self._loss(batch, chosen)
        self.epoch_loss.add(loss, len(chosen))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same with the first text of each image."""
        if dataloader_idx:  # a watched test set is for classifiers
            return
        texts = [self._val_texts[index][0] for index in batch["index"].tolist()]
        loss = self._loss(batch, texts)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(texts), add_dataloader_idx=False)

    def _loss(self, batch: Batch, texts: list[str]) -> Tensor:
        shown = ((pictures(self, batch, batch["image"].shape[-1]) + 1) * 127.5).round().clamp(0, 255).byte().cpu()
        inputs = self._reader.training_inputs(list(shown), texts)
        assert self.network is not None
        loss: Tensor = self.network(**{name: value.to(self.device) for name, value in inputs.items()}).loss
        return loss

    # Results

    def write(self, folder: Path, data: Any) -> None:
        """Write model and processor as a folder that transformers reads.

        Args:
            folder: where to; a new folder.
            data: the data module, for the model card.
        """
        network: Any = self.network
        network.save_pretrained(folder)
        self._reader.save(folder)
        card = (
            "---\nlibrary_name: transformers\npipeline_tag: image-to-text\n---\n"
            f"{self.hparams['model']}, fine-tuned by diffubias for {self.global_step} steps on {type(data).__name__}.\n"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def _is_idle(name: str, config: Any) -> bool:
    """Whether a parameter of the vision part changes no text: pooling, and layers behind the one that is read."""
    if name.startswith("encoder.pooler."):
        return True
    read = getattr(config, "vision_feature_layer", None)
    if read is None or ".vision_tower." not in f".{name}":
        return False
    count = config.vision_config.num_hidden_layers
    numbers = [read] if isinstance(read, int) else read
    layers = max(number if number >= 0 else count + 1 + number for number in numbers)
    place = re.search(r"\.layers\.(\d+)\.", name)
    return int(place[1]) >= layers if place else bool(re.search(r"\.(post_layernorm|head)\.", name))
