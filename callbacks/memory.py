"""Peaks of memory since some moment, of this process and of its GPU."""

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_KIB, _MIB = 2**10, 2**20


def forget_peaks(device: torch.device) -> None:
    """Have the peaks count from now on; that of the process stays where the system cannot forget it.

    Args:
        device: Whose allocations count; on a CPU there are none.
    """
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")  # resets the resident set's peak alone, see proc(5)
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)


def peak_resident() -> float:
    """Largest resident set of this process, in MiB."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) / _KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else _KIB)  # bytes on macOS, KiB elsewhere


def peak_allocated(device: torch.device) -> float | None:
    """Largest sum of a GPU's allocations by this process, in MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / _MIB if torch.cuda.is_initialized() else 0.0
