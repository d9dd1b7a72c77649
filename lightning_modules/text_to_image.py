"""A text-to-image model that learns the domain of a data set."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .classifier import Batch
from .errors import ConfigError
from .fine_tuned import FineTunedModule
from .generative import find_texts, pictures
from .pretrained import load_model

CAPTIONS = "captions.json"
# where LoRA (Hu et al., arXiv 2106.09685) goes in a U-Net, as in the training scripts of diffusers
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


class TextToImage(FineTunedModule):
    """Fine-tuning of a pipeline of the Stable Diffusion 1 and 2 kind: all of its U-Net, or LoRA beside it.

    The text encoder may learn with it, which words that it does not know need.

    As a stage of a chain it teaches a pretrained model what the images of the data set look like before it draws: with
    ``data: mined`` from the few mined ones, with ``data: real`` from all. The texts are the captions of the run for
    mined images, for the others the texts that the data have (``data.text_column`` of a table), and where there is
    neither a sentence with the names of the class and, where it is known, bias attribute.

    What is not trained, such as the autoencoder, is in no checkpoint. Logs ``train/loss`` and ``val/loss``, the mean
    squared error of the predicted noise (or v, as the pipeline's scheduler says). Draws best with averaged weights:
    add Lightning's ``EMAWeightAveraging`` to the callbacks of the Trainer.
    """

    index: ClassVar[str] = "model_index.json"
    network_settings: ClassVar[tuple[str, ...]] = ("model", "revision", "lora_rank", "train_text_encoder")

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        download: bool = False,
        size: int | None = None,
        lora_rank: int | None = None,
        train_text_encoder: bool = False,
        template: str = "a photo of a {class}",
        text_dropout: float = 0.1,
        gradient_checkpointing: bool = False,
        lr: float = 1e-5,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        """Keep the settings; the pipeline is loaded later.

        Args:
            model: hub id, or local folder written by ``save_pretrained``.
            revision: commit of the hub repository; None takes the newest.
            download: whether the model may be fetched; without it nothing touches the network.
            size: side of the images that are learnt, in pixels; None takes the pipeline's own.
            lora_rank: rank of the LoRA matrices (arXiv 2106.09685); None trains all weights of the U-Net.
            train_text_encoder: train all weights of the text encoder too; not beside LoRA.
            template: text of images that have none; ``{class}`` and ``{bias}`` stand for names.
            text_dropout: probability with which an image loses its text, for classifier-free guidance.
            gradient_checkpointing: compute the inside of blocks again in the backward pass, which saves memory.
            lr: the learning rate; LoRA takes about ten times that of full fine-tuning.
            optimizer: the optimizer, everything but its learning rate.
            scheduler: learning-rate scheduler; None keeps the rate.
            scheduler_interval: whether the scheduler counts epochs or optimizer steps.

        Raises:
            ConfigError: a value lies outside its range.
        """
        if lora_rank is not None and lora_rank < 1:
            raise ConfigError(f"{self.key}.lora_rank must be at least 1, but is {lora_rank}: set it to 8, or to null.")
        if lora_rank is not None and train_text_encoder:
            raise ConfigError(
                f"{self.key}.train_text_encoder is for all weights, {self.key}.lora_rank for few: set one of them only."
            )
        if not 0 <= text_dropout < 1:
            raise ConfigError(f"{self.key}.text_dropout must lie in [0, 1), but is {text_dropout}: set it to 0.1.")
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.strict_loading = False  # what is not trained is not saved
        self.unet: nn.Module | None = None
        self.text_encoder: nn.Module | None = None

    # Building

    def check_fit(self, data: Any) -> None:
        """Refuse data that cannot be learnt.

        Raises:
            ConfigError: see :class:`StagedModule`, or the images are synthetic.
        """
        super().check_fit(data)
        if data.source not in ("real", "mined"):
            raise ConfigError(f"stage of {type(self).__name__}: data must be real or mined, but is {data.source}.")

    def configure_model(self) -> None:
        """Load the pipeline, once.

        Raises:
            ConfigError: it cannot be loaded, or is of another kind.
        """
        if self.unet is not None:
            return
        import diffusers

        # on the CPU whatever the accelerator, so that a seed means the same start everywhere
        with torch.device("cpu"):
            pipeline = load_model(self.source, diffusers.DiffusionPipeline, torch.float32)
            self._prepare(pipeline)
        # the parts that stay as they are belong to no checkpoint, no optimizer and no other process
        self.__dict__["pipeline"] = pipeline
        self.unet = pipeline.unet
        if self.hparams["train_text_encoder"]:
            self.text_encoder = pipeline.text_encoder

    def _prepare(self, pipeline: Any) -> None:
        """Set what is trained, and add LoRA if it is wanted."""
        missing = [part for part in ("vae", "text_encoder", "tokenizer", "unet") if not hasattr(pipeline, part)]
        if missing or hasattr(pipeline, "text_encoder_2"):
            raise ConfigError(
                f"{self.key}.model: {type(pipeline).__name__} is not of the kind of Stable Diffusion 1 or 2, which "
                "alone can be fine-tuned: give another model."
            )
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
            part.requires_grad_(False)
        if self.hparams["lora_rank"] is None:
            pipeline.unet.requires_grad_(True)
            pipeline.text_encoder.requires_grad_(self.hparams["train_text_encoder"])
        else:
            from peft import LoraConfig

            rank = self.hparams["lora_rank"]
            pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION)))
        if self.hparams["gradient_checkpointing"]:
            pipeline.unet.enable_gradient_checkpointing()
            if self.hparams["train_text_encoder"]:
                pipeline.text_encoder.gradient_checkpointing_enable()
        pipeline.unet.train()
        pipeline.text_encoder.train(self.hparams["train_text_encoder"])
        pipeline.vae.eval()

    @cached_property
    def noise_schedule(self) -> Any:
        """The noise that the pipeline was trained with."""
        import diffusers

        make: Any = diffusers.DDPMScheduler
        return make.from_config(self._pipeline.scheduler.config)

    @property
    def _pipeline(self) -> Any:
        self.configure_model()
        return self.__dict__["pipeline"]

    @property
    def size(self) -> int:
        """Side of the images that are learnt, in pixels."""
        pipeline = self._pipeline
        own = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        return int(self.hparams["size"] or own)

    # Training

    def on_fit_start(self) -> None:
        """Bring the parts that stay as they are to the device, and read the texts."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._move(self.device)
        templates = [self.hparams["template"]]
        self._texts = with_captions(find_texts(data, "train", templates), data)
        self._val_texts = find_texts(data, "val", templates)

    def on_fit_end(self) -> None:
        """Give the memory back."""
        self.make_room()

    def make_room(self) -> None:
        """Take the autoencoder and the text encoder off the GPU."""
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        for part in (self._pipeline.vae, self._pipeline.text_encoder):
            part.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of what the U-Net predicts, over images whose text is dropped now and then."""
        texts = [self._texts[index] for index in batch["index"].tolist()]
        chosen = [own[int(torch.randint(len(own), ()))] for own in texts]
        dropped = torch.rand(len(chosen)) < self.hparams["text_dropout"]
        chosen = ["" if drop else text for text, drop in zip(chosen, dropped.tolist(), strict=True)]
        loss = self._loss(self._latents(batch), chosen, None)
        self.epoch_loss.add(loss, len(chosen))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Error for noise and times that only depend on the batch, with the first text of each image."""
        if dataloader_idx:  # a watched test set is for classifiers
            return
        texts = [self._val_texts[index][0] for index in batch["index"].tolist()]
        loss = self._loss(self._latents(batch), texts, torch.Generator().manual_seed(batch_idx))
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(texts), add_dataloader_idx=False)

    def _latents(self, batch: Batch) -> Tensor:
        """Scaled latents [B, C, h, w] of a batch."""
        vae = self._pipeline.vae
        with torch.no_grad():
            encoded = vae.encode(pictures(self, batch, self.size))
        # an AutoencoderTiny has latents in place of their distribution
        latents: Tensor = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
        scaled: Tensor = latents * vae.config.scaling_factor
        return scaled

    def _loss(self, latents: Tensor, texts: Sequence[str], generator: torch.Generator | None) -> Tensor:
        schedule, unet = self.noise_schedule, self._pipeline.unet
        # drawn on the CPU where a seed is given, so that it means the same on every machine
        home = latents.device if generator is None else torch.device("cpu")
        noise = torch.randn(latents.shape, generator=generator, device=home).to(latents)
        steps = schedule.config.num_train_timesteps
        time = torch.randint(steps, (len(latents),), generator=generator, device=home).to(latents.device)
        noisy = schedule.add_noise(latents, noise, time)
        kind = schedule.config.prediction_type
        target = schedule.get_velocity(latents, noise, time) if kind == "v_prediction" else noise
        predicted = unet(noisy, time, self._encode(texts), return_dict=False)[0]
        return F.mse_loss(predicted.float(), target.float())

    def _encode(self, texts: Sequence[str]) -> Tensor:
        tokenizer, encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
        length = tokenizer.model_max_length
        tokens = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        states: Tensor = encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return states

    # Results

    def write(self, folder: Path, data: Any) -> None:
        """Write the whole pipeline as a folder that diffusers reads, LoRA added to its weights.

        Args:
            folder: where to; a new folder.
            data: the data module, for the model card.
        """
        pipeline = self._pipeline
        if self.hparams["lora_rank"] is not None:
            pipeline.unet.fuse_lora()
            pipeline.unet.unload_lora()
        pipeline.to("cpu").save_pretrained(folder)
        how = "all weights of the U-Net" if self.hparams["lora_rank"] is None else f"LoRA {self.hparams['lora_rank']}"
        how += " and of the text encoder" * self.hparams["train_text_encoder"]
        card = (
            "---\nlibrary_name: diffusers\ntags: [text-to-image]\n---\n"
            f"{self.hparams['model']}, fine-tuned by diffubias ({how}) for {self.global_step} steps on "
            f"{type(data).__name__}, source {data.source}.\n"
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is not trained, unless weights are averaged: Lightning's callback wants all of them back."""
        super().on_save_checkpoint(checkpoint)
        if "current_model_state" in checkpoint:
            return
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: v for name, v in checkpoint["state_dict"].items() if name in trained}


def with_captions(texts: Sequence[Sequence[str]], data: Any) -> list[Sequence[str]]:
    """Texts of every real training image, with its captions in their place if it was mined and captioned."""
    replaced = list(texts)
    file = None if data.synthetic_dir is None else data.synthetic_dir / CAPTIONS
    if file is not None and file.is_file():
        for item in json.loads(file.read_text(encoding="utf-8"))["items"]:
            if any(own := [text for text in item["captions"] if text.strip()]):
                replaced[item["index"]] = own
    return replaced
