"""Which captions are worth drawing: those that hold a frequent word."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from callbacks.synthesis.part import Part
from lightning_modules.errors import ConfigError

LOGGER = logging.getLogger("diffubias")


@dataclass(frozen=True)
class FilterResult:
    """What the filter decided.

    Attributes:
        kept: One flag a caption.
        words: The frequent words with their counts, most frequent first.
        stop_words: Which stop-word list was used.
        rescued: Classes whose captions would all have been dropped.
    """

    kept: list[bool]
    words: list[tuple[str, int]]
    stop_words: str
    rescued: list[int]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "words": [list(pair) for pair in self.words]}


class TextFilter(Part):
    """Keeps captions that hold one of the F = ``words_per_class`` x classes most frequent words.

    Source: DiffuBias (arXiv 2411.16079), section 3.3, and the authors' stop_word_filter.py: tokens are lower-cased,
    alphabetic and no stop words, counts are pooled over all captions.

    Args:
        words_per_class: F divided by the number of classes.
        match: ``substring`` as the authors' code ("man" is found in "woman"), or ``word`` for whole words.
        language: Stop words of this language; the list needs NLTK's corpus on disk, English has a fallback.
    """

    def __init__(
        self, words_per_class: int = 2, match: Literal["substring", "word"] = "substring", language: str = "english"
    ) -> None:
        if words_per_class < 1:
            raise ConfigError(f"synthesize.text_filter.words_per_class must be at least 1, got {words_per_class}")
        self.words_per_class = words_per_class
        self.match = match
        self.language = language

    def filter(self, captions: Sequence[str], labels: Sequence[int], num_classes: int) -> FilterResult:
        """Decide which captions stay.

        Args:
            captions: All captions of all mined images.
            labels: Class of the image behind each caption, 0 to ``num_classes`` - 1.
            num_classes: Number of classes.
        """
        stop_words, list_name = load_stop_words(self.language)
        tokens = [tokenize(caption, stop_words) for caption in captions]
        words = _most_frequent(tokens, self.words_per_class * num_classes)
        frequent = [word for word, _ in words]
        kept = [self._holds(caption, own, frequent) for caption, own in zip(captions, tokens, strict=True)]
        rescued = []
        for label in sorted(set(labels)):
            places = [place for place, other in enumerate(labels) if other == label]
            if any(kept[place] for place in places):
                continue
            rescued.append(label)
            own_words = [word for word, _ in _most_frequent([tokens[p] for p in places], self.words_per_class)]
            chosen = [p for p in places if self._holds(captions[p], tokens[p], own_words)] or places
            for place in chosen:
                kept[place] = True
            LOGGER.warning(
                "the text filter drops every caption of class %d: its %d most frequent stay (%s)",
                label, len(chosen), ", ".join(own_words) or "no words at all",
            )  # fmt: skip
        return FilterResult(kept, words, list_name, rescued)

    def _holds(self, caption: str, tokens: list[str], words: Sequence[str]) -> bool:
        if self.match == "word":
            return not set(words).isdisjoint(tokens)
        lowered = caption.lower()
        return any(word in lowered for word in words)


def tokenize(text: str, stop_words: frozenset[str]) -> list[str]:
    """Return the lower-case alphabetic tokens that are no stop words, by NLTK's word tokenizer (needs no data)."""
    from nltk.tokenize import NLTKWordTokenizer

    tokens = NLTKWordTokenizer().tokenize(text.lower())
    # Without a sentence splitter a full stop sticks to a word in the middle of the text.
    parts = (part for token in tokens for part in re.split(r"[.]+", token))
    return [part for part in parts if part.isalpha() and part not in stop_words]


def load_stop_words(language: str) -> tuple[frozenset[str], str]:
    """Return the stop words and the name of the list: NLTK's corpus, or scikit-learn's English list where it is absent.

    Raises:
        ConfigError: Another language without the corpus.
    """
    from nltk.corpus import stopwords

    try:
        return frozenset(stopwords.words(language)), f"nltk stopwords ({language})"
    except LookupError:
        pass
    except OSError as error:
        raise ConfigError(f"synthesize.text_filter.language: NLTK has no stop words for {language!r}") from error
    if language != "english":
        raise ConfigError(
            f"synthesize.text_filter.language: the NLTK stop words for {language!r} are not on disk: "
            "run python -m nltk.downloader stopwords, or use english"
        )
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS), "scikit-learn ENGLISH_STOP_WORDS"


def _most_frequent(tokens: Sequence[list[str]], count: int) -> list[tuple[str, int]]:
    """Return the most frequent words with counts, ties in alphabetical order."""
    counts = Counter(token for own in tokens for token in own)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]
