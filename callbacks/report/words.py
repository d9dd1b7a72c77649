"""What was the bias? Words that the captions of hard images have more, or less, often than those of easy images.

Every word and class is one table of four counts: images with and without the word, among the mined images of the class
and among those it is compared with. An image counts once, however many of its captions hold the word, since captions of
one image are no independent observations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import false_discovery_control, fisher_exact

from callbacks.synthesis.text_filter import tokenize

LEVEL = 0.05
MIN_IMAGES = 3
Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Word:
    """One word in the captions of one class.

    Attributes:
        word: The word, in lower case.
        label: The class.
        high: Mined images that have it.
        low: Images compared with that have it.
        odds_ratio: Odds of the word among the mined images over those among the others, with Haldane's correction
            (Haldane, Annals of Eugenics 1956): one half is added to every count. Above 1 the word goes with images
            that contradict the shortcut, below 1 with the shortcut.
        p: Two-sided p of Fisher's exact test.
        q: The least false discovery rate at which it is significant (Benjamini and Hochberg, JRSS B 1995), over all
            words of all classes.
    """

    word: str
    label: int
    high: int
    low: int
    odds_ratio: float
    p: float
    q: float

    @property
    def significant(self) -> bool:
        """Whether it stands out at a false discovery rate of 5 %."""
        return self.q <= LEVEL


def compare_words(high: Mapping[int, Texts], low: Mapping[int, Texts] | None, stop_words: frozenset[str]) -> list[Word]:
    """Test every word of every class.

    Words that fewer than three of all images of the class hold are not tested. Given how many hold a word, the test
    asks only on which side they are, so this choice does not distort it.

    Args:
        high: Captions of the mined images: class to images to texts.
        low: Captions of what they are compared with, by the same classes; None compares with the mined images of all
            other classes.
        stop_words: Words to leave out.

    Returns:
        The words, of each class the most significant first, then those with the strongest odds.
    """
    mined = {label: _count(texts, stop_words) for label, texts in high.items()}
    if low is None:
        size, every = sum(map(len, high.values())), sum(mined.values(), Counter())
        others = {label: (size - len(high[label]), every - own) for label, own in mined.items()}
    else:
        others = {label: (len(texts), _count(texts, stop_words)) for label, texts in low.items()}
    tested: list[tuple[str, int, int, int, float, float]] = []
    for label in sorted(mined.keys() & others.keys()):
        size, counts = others[label]
        for word in sorted(mined[label].keys() | counts.keys()):
            inside = mined[label][word], counts[word]
            if sum(inside) < MIN_IMAGES:
                continue
            outside = len(high[label]) - inside[0], size - inside[1]
            tested.append((word, label, *inside, odds_ratio(*inside, *outside), _fisher(*inside, *outside)))
    if not tested:
        return []
    adjusted = false_discovery_control([min(test[-1], 1.0) for test in tested], method="bh")
    words = [Word(*test, float(q)) for test, q in zip(tested, adjusted, strict=True)]
    return sorted(words, key=lambda own: (own.label, own.q, -abs(np.log(own.odds_ratio)), own.word))


def odds_ratio(high: int, low: int, high_without: int, low_without: int) -> float:
    """Odds ratio with one half added to each count, so that it is finite and above 0."""
    return (high + 0.5) * (low_without + 0.5) / ((low + 0.5) * (high_without + 0.5))


def _count(texts: Texts, stop_words: frozenset[str]) -> Counter[str]:
    """In how many images each word occurs."""
    return Counter(word for own in texts for word in {token for text in own for token in tokenize(text, stop_words)})


@lru_cache(maxsize=2**16)  # with many classes most words have one of a few tables
def _fisher(high: int, low: int, high_without: int, low_without: int) -> float:
    return float(fisher_exact([[high, high_without], [low, low_without]]).pvalue)
