"""Collective helpers that do the right thing for one process and for many."""

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from lightning_modules.distributed import rank, world_size
from lightning_modules.errors import ConfigError

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank. Collective."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return rank 0's value on every rank. Collective."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def agree(work: Callable[[], T]) -> T:
    """Run ``work`` here and let all ranks fail together when one of them fails. Collective.

    Every rank must call it the same number of times; ``work`` itself must not be collective. It doubles as a barrier.

    Args:
        work: What this rank has to do, possibly nothing.

    Returns:
        What ``work`` returned on this rank.

    Raises:
        ConfigError: A rank raised one; the same line on all ranks.
        RuntimeError: A rank raised anything else; the message holds that rank's traceback.
    """
    result: T | None = None
    failure: tuple[bool, str] | None = None
    cause: Exception | None = None
    try:
        result = work()
    except ConfigError as error:
        failure, cause = (True, str(error)), error
    except Exception as error:
        if world_size() == 1:
            raise
        failure, cause = (False, traceback.format_exc()), error
    failures = gather(failure)
    for number, found in enumerate(failures):
        if found is None:
            continue
        mild, message = found
        if mild:
            raise ConfigError(message) from cause
        raise RuntimeError(f"rank {number} of {len(failures)} failed:\n{message}") from cause
    return result  # type: ignore[return-value]


def on_rank_zero(work: Callable[[], T]) -> T:
    """Run ``work`` on rank 0 only and give its result to every rank, or its error. Collective."""
    result = agree(work if rank() == 0 else lambda: None)
    return broadcast(result)  # type: ignore[return-value]


def one_after_another(work: Callable[[], T], first: bool) -> T:
    """Run ``work`` on the ranks marked ``first`` (one a node), then on the others. Collective.

    Args:
        work: For example loading a model that the first rank of a node has to download.
        first: Whether this rank goes first.
    """
    results = [agree(work if first == turn else lambda: None) for turn in (True, False)]
    return results[0 if first else 1]  # type: ignore[return-value]
