import logging

import numpy as np
import pytest

from datamodules.benchmark import compare_counts

LABELS, BIASES = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("official", "complete", "warnings"),
    [
        ({(0, 0): 2, (0, 1): 1, (1, 1): 1}, None, 0),
        ({(0, 0): 1, (0, 1): 2, (1, 1): 1}, None, 1),  # the official size, but other groups
        ({(0, 0): 5, (0, 1): 2, (1, 1): 1}, None, 0),  # a part of the set
        ({(0, 0): 3}, True, 1),
        ({(0, 0): 2}, True, 0),
        ({(0, 0): 3}, False, 0),
    ],
)
def test_only_complete_sets_are_compared(
    official: dict[tuple[int, int], int], complete: bool | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        compare_counts("the set", LABELS, BIASES, official, complete)
    assert len(caplog.records) == warnings
    for record in caplog.records:
        assert "the set has the groups (label, bias) {(0, 0): 2" in record.getMessage()
        assert str(official) in record.getMessage()
