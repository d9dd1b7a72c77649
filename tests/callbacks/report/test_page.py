import pytest

from callbacks.report.page import digits, moment


@pytest.mark.parametrize(
    ("value", "text"), [(1.1017e-05, "0.000011"), (0.00147763, "0.00148"), (238.2, "238"), (0.0, "0"), (None, "-")]
)
def test_small_numbers_are_written_out(value: float | None, text: str) -> None:
    assert digits(value) == text


def test_times_are_to_the_minute() -> None:
    assert moment("2026-01-02T03:04:05.678+00:00") == "2026-01-02 03:04 UTC"
    assert moment("x") == "x"
