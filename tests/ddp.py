"""Run a function in several real processes that share a gloo process group."""

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes


class RankError(RuntimeError):
    """One of the processes failed."""


def run_ddp(fn: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = 120) -> list[Any]:
    """Call ``fn(rank, world_size, *args)`` in world_size processes of one gloo group.

    The processes are new ones, forked by a server that has only imported the heavy libraries, once for all tests.

    Args:
        fn: a function at the top level of a module.
        *args: what it gets besides; everything must be picklable.
        world_size: number of processes.
        timeout: seconds after which all of them are killed.

    Returns:
        What each process returned, by rank; it must be picklable, tensors on the CPU.

    Raises:
        RankError: a process failed; the message holds the traceback of the first one that did, the others are ended.
        TimeoutError: they did not finish in time.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        state = (Path(folder), world_size, timeout, dict(os.environ), list(sys.path))
        context = start_processes(  # type: ignore[no-untyped-call]
            _worker, (fn, args, *state), nprocs=world_size, join=False, start_method="forkserver"
        )
        assert context is not None
        try:
            while not context.join(timeout=0.5):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{fn.__name__} did not finish on {world_size} processes within {timeout} s")
        except ProcessRaisedException as error:
            # The others fail too, of the lost connection, and perhaps are noticed sooner.
            first = min(Path(folder).glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
            raise RankError(f"rank {first.stem} of {fn.__name__}: {first.read_text()}") from error
        finally:
            for process in context.processes:
                if process.is_alive():
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                    process.join()
        return [pickle.loads((Path(folder) / f"{rank}.pkl").read_bytes()) for rank in range(world_size)]


def _worker(
    rank: int,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    folder: Path,
    world_size: int,
    timeout: float,
    environment: dict[str, str],
    path: list[str],
) -> None:
    # The server keeps the surroundings of its own start, not those of the test.
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    sys.path[:] = path
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        result = fn(rank, world_size, *args)
        # No process leaves, and takes its connections with it, while another still needs them.
        dist.barrier()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()
    (folder / f"{rank}.pkl").write_bytes(pickle.dumps(result))
