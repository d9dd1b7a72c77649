"""What several processes tell each other while they train; with one process these do nothing."""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(values: Tensor) -> Tensor:
    """The values [B, ...] of all processes, one after the other [R * B, ...]; all must give equally many.

    No gradient flows back.
    """
    if not is_distributed():
        return values.detach()
    everything = values.new_empty((dist.get_world_size() * values.shape[0], *values.shape[1:]))
    dist.all_gather_into_tensor(everything, values.detach().contiguous())
    return everything


def summed(values: Tensor) -> Tensor:
    """The sum of the values over all processes, of the same shape; no gradient flows back."""
    total = values.detach().clone()
    if is_distributed():
        dist.all_reduce(total)
    return total


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def assembled(index: Tensor, values: Tensor, count: int) -> Tensor:
    """Put together what the processes computed for different samples.

    Args:
        index: which samples this process computed, int64 [M]; M may differ.
        values: its values [M, ...], on the CPU.
        count: number of all samples N.

    Returns:
        The values of all samples [N, ...], the same in every process.

    Raises:
        RuntimeError: the processes do not have every sample exactly once.
    """
    parts: list[tuple[Tensor, Tensor]] = [(index, values)]
    if is_distributed():
        parts = [(index, values)] * dist.get_world_size()
        dist.all_gather_object(parts, (index, values))
    everything = torch.cat([part[0] for part in parts])
    if not torch.equal(everything.sort().values, torch.arange(count)):
        raise RuntimeError(f"{len(everything)} values for {count} samples: the shares of the processes are wrong")
    whole = values.new_empty((count, *values.shape[1:]))
    whole[everything] = torch.cat([part[1] for part in parts])
    return whole
