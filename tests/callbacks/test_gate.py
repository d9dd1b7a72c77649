import numpy as np
import pytest

from callbacks.synthesis import Gate, Sample
from callbacks.synthesis.generator import to_sample
from lightning_modules.errors import ConfigError

NOISE = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(NOISE), None),
        (Sample(NOISE, unsafe=True), "unsafe"),
        (Sample(None, nan=True), "nan"),
        (Sample(np.full((8, 6, 3), 9, np.uint8)), "constant"),
        (Sample(NOISE[:4]), "size"),
        (Sample(NOISE[..., :1]), "size"),
    ],
)
def test_reasons(sample: Sample, reason: str | None) -> None:
    assert Gate().check(sample, (6, 8)) == reason


def test_grey_images_are_rejected_on_request() -> None:
    grey = NOISE[..., :1].repeat(3, axis=2)
    tinted = grey.astype(np.int16)
    tinted[..., 0] = np.clip(tinted[..., 0] + 10, 0, 255)
    assert Gate().check(Sample(grey)) is None
    assert Gate(min_colour=5).check(Sample(grey)) == "grey"
    assert Gate(min_colour=5).check(Sample(tinted.astype(np.uint8))) is None
    assert Gate(min_colour=15).check(Sample(tinted.astype(np.uint8))) == "grey"
    assert Gate(min_colour=5).check(Sample(NOISE)) is None


def test_any_size_is_right_where_none_is_expected() -> None:
    assert Gate().check(Sample(NOISE[:4])) is None


def test_the_lowest_number_of_equal_images_stays() -> None:
    seen = {"a": 3}
    assert Gate().duplicates([(9, "b"), (5, "a"), (2, "b")], seen) == {5, 9}
    assert seen == {"a": 3, "b": 2}
    assert Gate(check_duplicates=False).duplicates([(1, "a"), (2, "a")], {}) == set()


def test_float_images_become_bytes_and_nan_is_flagged() -> None:
    image = np.array([[[0.0, 1.0, 0.5]]], np.float32)
    sample = to_sample(image, False)
    assert sample.image is not None
    assert sample.image.tolist() == [[[0, 255, 128]]]
    assert to_sample(np.full((2, 2, 3), np.nan), False).nan


def test_negative_retries_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate\.retries"):
        Gate(retries=-1)
