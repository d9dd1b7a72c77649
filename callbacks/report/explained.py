"""What was the bias, in words: the section on the captions of a run."""

from collections import defaultdict
from dataclasses import dataclass

from callbacks.report.missing import NothingToShowError
from callbacks.report.pictures import csv_uri
from callbacks.report.reading import RunRecord, need_synthesis
from callbacks.report.words import Word, compare_words
from callbacks.synthesis.text_filter import load_stop_words

SHOWN, WEAK = 6, 3  # words of a class: of those that stand out, and of all where fewer do


@dataclass(frozen=True)
class ClassWords:
    """The words of one class.

    Attributes:
        name: Name of the class.
        usual: Words that go with its easy images: what the biased model relies on.
        rare: Words that go with its hard images: what contradicts that.
        high: How many mined images were compared.
        low: With how many others.
    """

    name: str
    usual: list[Word]
    rare: list[Word]
    high: int
    low: int


@dataclass(frozen=True)
class Explained:
    """What was the bias.

    Attributes:
        classes: The words of every class.
        tested: How many pairs of word and class were tested.
        contrast: Whether they were compared with images of low loss; with the mined images of other classes otherwise.
        stop_words: Which list of stop words was left out.
        csv: All tests as a data URI.
    """

    classes: list[ClassWords]
    tested: int
    contrast: bool
    stop_words: str
    csv: str


def explained(record: RunRecord) -> Explained:
    """Compare the words of hard and of easy images.

    Raises:
        NothingToShowError: Nothing was captioned.
    """
    synthesis = need_synthesis(record)
    if not synthesis.captions or not synthesis.mined:
        raise NothingToShowError("Nothing was captioned in this run, so that there are no words to compare.")
    labels = {item["index"]: item["label"] for item in synthesis.mined}
    high: dict[int, list[list[str]]] = defaultdict(list)
    for index, captions in synthesis.captions.items():
        high[labels[index]].append([caption.text for caption in captions])
    easy: dict[int, list[list[str]]] = defaultdict(list)
    for label, texts in synthesis.contrast:
        easy[label].append(texts)
    options = ((record.config.get("synthesize") or {}).get("text_filter") or {}).get("init_args") or {}
    stop_words, name = load_stop_words(options.get("language", "english"))
    words = compare_words(high, easy or None, stop_words)
    classes = [
        ClassWords(
            class_name,
            _first([word for word in words if word.label == label and word.odds_ratio < 1]),
            _first([word for word in words if word.label == label and word.odds_ratio > 1]),
            len(high[label]),
            len(easy.get(label, ())) if easy else len(synthesis.captions) - len(high[label]),
        )
        for label, class_name in enumerate(synthesis.classes)
        if label in high
    ]
    columns = ["class", "word", "mined images with it", "other images with it", "odds ratio", "p", "q"]
    rows = (
        [synthesis.classes[word.label], word.word, word.high, word.low, word.odds_ratio, word.p, word.q]
        for word in words
    )
    return Explained(classes, len(words), bool(synthesis.contrast), name, csv_uri(columns, rows))


def _first(words: list[Word]) -> list[Word]:
    """Words that stand out, and some that do not where these are few."""
    return words[: min(SHOWN, max(WEAK, sum(word.significant for word in words)))]
