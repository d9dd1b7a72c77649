"""What stands between an image-to-text model of transformers and pictures and texts: its processor, or its parts."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .errors import ConfigError
from .pretrained import Source, load

LOGGER = logging.getLogger("diffubias")
INSTRUCTION = "Describe this image in one sentence."


class Reader:
    """Makes model inputs from pictures and texts from tokens, whatever processor the model comes with."""

    def __init__(self, source: Source, network: Any, prompt: str | None) -> None:
        """Load processor or image processor and tokenizer.

        Args:
            source: where the model comes from.
            network: the model.
            prompt: instruction of a chat model, or the beginning of every text; None takes a default.

        Raises:
            ConfigError: a prompt is given for a model that takes no text.
        """
        import transformers

        auto: Any = transformers
        options = source.options
        self.processor: Any = None
        try:
            found = auto.AutoProcessor.from_pretrained(source.location, **options)
            self.processor = found if isinstance(found, transformers.ProcessorMixin) else None
        except (OSError, ValueError, KeyError) as error:
            LOGGER.debug("%s has no processor (%s): its parts are read one by one", source.location, error)
        if self.processor is None:
            self.image_processor = auto.AutoImageProcessor.from_pretrained(source.location, **options)
            self.tokenizer = auto.AutoTokenizer.from_pretrained(source.location, **options)
        else:
            self.tokenizer = self.processor.tokenizer
            _complete(self.processor, network.config)
        # Prompts of a batch must end side by side where the new text begins.
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # BLIP begins to write after a token of its own, which its tokenizer does not put there
        self._start = network.config.text_config.bos_token_id if network.config.model_type == "blip" else None
        self.has_text_input = self.processor is not None and not network.config.is_encoder_decoder
        if prompt is not None and not self.has_text_input:
            raise ConfigError(f"{source.beside('prompt')}: {source.location} takes no text: set the prompt to null")
        self.text = self._render(prompt) if self.has_text_input else None

    @property
    def _image_token(self) -> str:
        """What stands for the picture in a text; "" where nothing does."""
        return str(getattr(self.processor, "image_token", None) or "")

    def _render(self, prompt: str | None) -> str | None:
        """Write the text input of one image: by the chat template if there is one, else the bare prompt."""
        if getattr(self.processor, "num_query_tokens", None) is not None:
            # BLIP-2 puts its picture before the text by itself; only InstructBLIP cannot do without a text
            return prompt or (INSTRUCTION if hasattr(self.processor, "qformer_tokenizer") else None)
        image_token = self._image_token
        multimodal = [{"type": "image"}, {"type": "text", "text": prompt or INSTRUCTION}]
        plain_text = f"{image_token}\n{prompt or INSTRUCTION}"
        # Some LLaVA repositories carry the language model's template only, which knows text but no image parts.
        candidates: list[tuple[Any, Any]] = [
            (self.processor, multimodal),
            (self.processor, plain_text),
            (self.tokenizer, plain_text),
        ]
        for owner, content in candidates:
            if not getattr(owner, "chat_template", None):
                continue
            try:
                text = owner.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
                )
            except Exception as error:
                LOGGER.debug("a chat template does not accept %r: %s", content, error)
                continue
            # A template for texts may print the list of parts itself instead of its picture.
            listed = not isinstance(text, str) or "'type'" in text
            if not listed and (not image_token or text.count(image_token) == 1):
                return str(text)
        if image_token and image_token not in (prompt or ""):
            return plain_text
        return prompt

    def inputs(self, images: Sequence[Image.Image]) -> Any:
        """Return the batch for ``generate``."""
        if self.text is None:
            return self._images(images)
        # each in a list of its own: some processors take a flat list for the pictures of one text
        pictures, texts = [[image] for image in images], [self.text] * len(images)
        special = self._special_tokens(self.text)
        return self.processor(images=pictures, text=texts, padding=True, return_tensors="pt", **special)

    def _images(self, images: Sequence[Any]) -> Any:
        reader = self.image_processor if self.processor is None else self.processor
        return reader(images=list(images), return_tensors="pt")

    def _special_tokens(self, text: str) -> dict[str, bool]:
        """A template has written the first token already; a second one would be added."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def training_inputs(self, images: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the batch for a forward pass that gives a loss.

        Args:
            images: pictures, in any form that the model's image processor takes.
            texts: what is to be written of them.

        Returns:
            The model's inputs and ``labels``: tokens int64 [B, T], -100 where none is to be learnt (prompt, padding).
        """
        self.tokenizer.padding_side = "right"
        end = self.tokenizer.eos_token or self.tokenizer.sep_token
        # some tokenizers end every text by themselves
        closed = self.tokenizer("a").input_ids[-1] == self.tokenizer.convert_tokens_to_ids(end)
        if not self.has_text_input:
            ended = texts if closed else [f"{text} {end}" for text in texts]
            ids = self.tokenizer(list(ended), padding=True, return_tensors="pt")
            return {**self._images(images), "labels": _labels(ids.input_ids, ids.attention_mask)}
        prompt = self.text or ""
        special = self._special_tokens(prompt)
        closed = closed and not special
        whole = [" ".join(f"{prompt} {text}{'' if closed else f' {end}'}".split(" ")).strip() for text in texts]
        pictures = [[image] for image in images]
        inputs = self.processor(images=pictures, text=whole, padding=True, return_tensors="pt", **special)
        labels = _labels(inputs.input_ids, inputs.attention_mask)
        if self._start is not None:
            inputs["input_ids"][:, 0] = self._start
        if self._image_token:
            labels[inputs.input_ids == self.tokenizer.convert_tokens_to_ids(self._image_token)] = -100
        if prompt:
            first = self.processor(images=pictures[:1], text=[prompt], return_tensors="pt", **special)
            labels[:, : first.input_ids.shape[1] - (1 if closed else 0)] = -100
        return {**inputs, "labels": labels}

    def add_words(self, words: Sequence[str], network: Any) -> None:
        """Let tokenizer and model know further words, whose meaning is to be learnt.

        Args:
            words: what the tokenizer cannot write; words that it can write are passed over.
            network: the model; its vocabulary grows.
        """
        # models of two parts cannot grow as a whole
        writer = getattr(network, "text_decoder", None) or getattr(network, "decoder", None) or network
        rows = writer.get_input_embeddings().num_embeddings
        # tokens that only the model knows, such as the one that BLIP begins with, keep their numbers
        unused = [f"<unused {number}>" for number in range(len(self.tokenizer), rows)]
        self.tokenizer.add_tokens(unused, special_tokens=True)
        if add_words(self.tokenizer, words):
            writer.resize_token_embeddings(len(self.tokenizer))

    def save(self, folder: Path) -> None:
        """Write processor, or image processor and tokenizer, beside a model."""
        self.tokenizer.padding_side = "left"
        for part in (self.image_processor, self.tokenizer) if self.processor is None else (self.processor,):
            part.save_pretrained(folder)

    def decode(self, tokens: Tensor) -> list[str]:
        """Return texts with single spaces."""
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def add_words(tokenizer: Any, words: Iterable[str]) -> int:
    """Let a tokenizer know those of some words that it cannot write, and return how many these are."""
    from transformers import AddedToken

    # as a whole: `male` is no part of `female`; a comma may follow a word at once
    lacking = [AddedToken(word, single_word=word.isalnum()) for word in words if _is_unknown(tokenizer, word)]
    return int(tokenizer.add_tokens(lacking)) if lacking else 0


def unknown_words(source: Source, words: Sequence[str], texts: Iterable[str]) -> tuple[list[str], int]:
    """Find the words of texts that a model's tokenizer cannot write: models of few words have such.

    Args:
        source: where the model comes from.
        words: further words that it gets.
        texts: what it is to write.

    Returns:
        The words and signs in their order, and how many texts have some.
    """
    import transformers

    auto: Any = transformers.AutoTokenizer
    tokenizer = load(source, lambda: auto.from_pretrained(source.location, **source.options))
    add_words(tokenizer, words)
    if tokenizer.unk_token_id is None:
        return [], 0
    texts = list(texts)
    written = tokenizer(texts, add_special_tokens=False).input_ids
    affected = [text for text, ids in zip(texts, written, strict=True) if tokenizer.unk_token_id in ids]
    used = {word for text in affected for word in re.findall(r"\w+|[^\w\s]", text)}
    return sorted(word for word in used if _is_unknown(tokenizer, word)), len(affected)


def _is_unknown(tokenizer: Any, text: str) -> bool:
    """Whether a tokenizer writes part of a text as unknown."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in tokenizer(text, add_special_tokens=False).input_ids


def _labels(ids: Tensor, mask: Tensor) -> Tensor:
    return ids.masked_fill(mask == 0, -100)


def _complete(processor: Any, config: Any) -> None:
    """Give an old LLaVA processor what it must know about the vision tower (older repositories lack it)."""
    if getattr(processor, "patch_size", 0) is not None:
        return
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    # CLIP puts a class token before the patches, SigLIP does not.
    processor.num_additional_image_tokens = int(config.vision_config.model_type.startswith("clip"))
