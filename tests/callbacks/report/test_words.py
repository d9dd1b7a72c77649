import math

import pytest

from callbacks.report.words import Word, compare_words, odds_ratio

NONE: frozenset[str] = frozenset()


def images(*texts: str) -> list[list[str]]:
    return [[text] for text in texts]


def by_word(words: list[Word]) -> dict[str, Word]:
    return {own.word: own for own in words}


def test_fisher_of_the_lady_tasting_tea() -> None:
    """3 of 4 against 1 of 4: two-sided p = 2 (16 + 1) / 70, over the hypergeometric weights 1, 16, 36, 16, 1."""
    found = by_word(compare_words({0: images("ice", "ice", "ice", "a")}, {0: images("ice", "b", "c", "d")}, NONE))
    assert found["ice"].p == pytest.approx(34 / 70)
    assert found["ice"].odds_ratio == pytest.approx((3.5 * 3.5) / (1.5 * 1.5))
    assert (found["ice"].high, found["ice"].low) == (3, 1)
    assert list(found) == ["ice"]  # the others are in fewer than three images
    assert not found["ice"].significant


def test_complete_separation_is_finite() -> None:
    high, low = {0: images(*["ice"] * 6)}, {0: images(*["water"] * 6)}
    found = by_word(compare_words(high, low, NONE))
    assert found["ice"].odds_ratio == pytest.approx(6.5 * 6.5 / (0.5 * 0.5))
    assert found["water"].odds_ratio == pytest.approx(1 / found["ice"].odds_ratio)
    assert found["ice"].p == pytest.approx(2 / math.comb(12, 6))
    assert found["ice"].significant


def test_an_image_counts_once() -> None:
    several = [["ice", "ice and ice", "Ice."]] * 3
    found = by_word(compare_words({0: several}, {0: images("x", "y", "z")}, frozenset({"and"})))
    assert (found["ice"].high, found["ice"].low) == (3, 0)


def test_the_false_discovery_rate_is_over_all_words_of_all_classes() -> None:
    """Benjamini and Hochberg by hand: q of rank i is the least of p m / j over the ranks j from i on."""
    high = {0: images(*["ice sun"] * 6, *["sun"] * 2), 1: images(*["rock"] * 4, *["sun"] * 4)}
    low = {0: images(*["sun"] * 8), 1: images(*["rock"] * 2, *["sun"] * 6)}
    words = compare_words(high, low, NONE)
    assert {(own.label, own.word) for own in words} == {(0, "ice"), (0, "sun"), (1, "rock"), (1, "sun")}
    ordered = sorted(own.p for own in words)
    for own in words:
        places = [place for place, p in enumerate(ordered, start=1) if p >= own.p - 1e-12]
        assert own.q == pytest.approx(min(1, *(ordered[place - 1] * len(ordered) / place for place in places)))


def test_the_order_is_by_class_then_significance_then_odds() -> None:
    high = {1: images(*["ice"] * 8), 0: images(*["sun snow"] * 8)}
    low = {1: images(*["dust"] * 8), 0: images(*["sun"] * 8)}
    assert [(own.label, own.word) for own in compare_words(high, low, NONE)] == [
        (0, "snow"), (0, "sun"), (1, "dust"), (1, "ice"),
    ]  # fmt: skip


def test_without_easy_images_the_mined_ones_of_other_classes_are_the_other_side() -> None:
    high = {0: images(*["ice sun"] * 4), 1: images(*["ice"] * 3, *["rock"] * 5), 2: images(*["rock sun"] * 2)}
    others = {label: [own for other, its in high.items() if other != label for own in its] for label in high}
    assert compare_words(high, None, NONE) == compare_words(high, others, NONE)


def test_nothing_to_compare() -> None:
    assert compare_words({}, {}, NONE) == []
    assert compare_words({0: images("ice")}, {1: images("ice")}, NONE) == []


def test_haldane() -> None:
    assert odds_ratio(0, 0, 5, 5) == 1
    assert odds_ratio(1, 0, 0, 1) == 9
