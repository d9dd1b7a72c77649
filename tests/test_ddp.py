import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.ddp import RankError, run_ddp


def total(rank: int, world_size: int, number: int) -> tuple[int, int, str]:
    value = torch.tensor(number + rank)
    dist.all_reduce(value)
    return int(value), world_size, os.environ.get("DIFFUBIAS_TEST", "")


def fail_on_one(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("broken on purpose")
    dist.barrier()


def sleep(rank: int, world_size: int) -> None:
    time.sleep(60)


def test_results_come_back_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUBIAS_TEST", "seen")
    assert run_ddp(total, 5) == [(11, 2, "seen")] * 2
    assert run_ddp(total, 1, world_size=3) == [(6, 3, "seen")] * 3


def test_one_failure_ends_all() -> None:
    with pytest.raises(RankError, match=r"rank 1 of fail_on_one: (?s:.)*broken on purpose"):
        run_ddp(fail_on_one)


def test_too_long_is_killed() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="sleep did not finish"):
        run_ddp(sleep, timeout=3)
    assert time.monotonic() - start < 30
