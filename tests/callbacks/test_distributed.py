import time
from typing import Any

import pytest

from callbacks.synthesis.distributed import agree, broadcast, gather, on_rank_zero, one_after_another
from lightning_modules.distributed import rank, world_size
from lightning_modules.errors import ConfigError
from tests.ddp import run_ddp


def exchange(own_rank: int, size: int) -> Any:
    first = one_after_another(lambda: time.monotonic(), own_rank == 1)
    return gather(own_rank * 10), broadcast(own_rank + 5), on_rank_zero(lambda: rank() + 7), first, world_size()


def fail_on_one(own_rank: int, size: int, kind: str) -> str:
    def work() -> None:
        if own_rank == 1:
            raise ConfigError("the key is wrong") if kind == "config" else ValueError("broken")

    try:
        agree(work)
    except (ConfigError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_one_process_needs_no_group() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert gather(3) == [3]
    assert broadcast(3) == on_rank_zero(lambda: 3) == agree(lambda: 3) == one_after_another(lambda: 3, False) == 3
    with pytest.raises(ZeroDivisionError):
        agree(lambda: 1 / 0)


def test_values_travel_between_two_processes() -> None:
    (zero, one) = run_ddp(exchange)
    assert zero[:3] == one[:3] == ([0, 10], 5, 7)
    assert one[3] < zero[3]
    assert zero[4] == 2


@pytest.mark.parametrize(
    ("kind", "text"), [("config", "ConfigError: the key is wrong"), ("other", "rank 1 of 2 failed")]
)
def test_all_ranks_fail_with_the_message_of_the_one_that_failed(kind: str, text: str) -> None:
    zero, one = run_ddp(fail_on_one, kind)
    assert zero == one
    assert text in zero
    if kind == "other":
        assert "ValueError: broken" in zero
        assert 'raise ConfigError("the key is wrong") if kind' in zero
