import logging

import pytest

from callbacks.synthesis import TextFilter
from callbacks.synthesis.text_filter import load_stop_words, tokenize
from lightning_modules.errors import ConfigError

CAPTIONS = ["A man climbs a wall.", "the man on the wall", "a woman swims", "the of and", "Fish, 42 fish!"]
LABELS = [0, 0, 1, 1, 1]


def test_tokens_are_lower_case_alphabetic_and_no_stop_words() -> None:
    stop_words, name = load_stop_words("english")
    assert tokenize("The MAN, in 3 boats. Boats don't x2", stop_words) == ["man", "boats", "boats"]
    assert "english" in name.lower()


def test_keeps_captions_with_a_frequent_word_by_substring() -> None:
    result = TextFilter(words_per_class=1).filter(CAPTIONS, LABELS, 2)
    assert result.words == [("fish", 2), ("man", 2)]
    # "man" stands inside "woman", as in the reference code.
    assert result.kept == [True, True, True, False, True]


def test_keeps_captions_with_a_frequent_word_by_whole_word() -> None:
    result = TextFilter(words_per_class=1, match="word").filter(CAPTIONS, LABELS, 2)
    assert result.kept == [True, True, False, False, True]
    assert result.to_json()["words"] == [["fish", 2], ["man", 2]]


def test_a_class_without_kept_captions_keeps_its_most_frequent(caplog: pytest.LogCaptureFixture) -> None:
    captions = ["dog dog", "dog", "cat", "cat bird", "cow"]
    with caplog.at_level(logging.WARNING, "diffubias"):
        result = TextFilter(words_per_class=1, match="word").filter(captions, [0, 0, 1, 1, 1], 1)
    assert result.words == [("dog", 3)]
    assert result.kept == [True, True, True, True, False]
    assert result.rescued == [1]
    assert "class 1" in caplog.text


def test_a_class_of_stop_words_keeps_everything() -> None:
    assert TextFilter().filter(["the", "of"], [0, 0], 1).kept == [True, True]


def test_unknown_language_and_bad_count_are_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"text_filter\.language"):
        load_stop_words("klingon")
    with pytest.raises(ConfigError, match="words_per_class"):
        TextFilter(words_per_class=0)
