"""Where the results of a run come from: a line in ``provenance.jsonl`` for every attempt of ``fit``."""

import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from callbacks.synthesis.files import append_lines, make_folder, mend_lines

PROVENANCE = "provenance.jsonl"
PACKAGES = (
    "accelerate", "codecarbon", "diffusers", "diffubias", "jsonargparse", "lightning", "nltk", "numpy", "peft",
    "pillow", "scikit-learn", "scipy", "torch", "torchmetrics", "torchvision", "transformers",
)  # fmt: skip
_ROOT = Path(__file__).parents[1]


def record_attempt(run_dir: Path, words: Sequence[str], trainer: Trainer, seed: int) -> None:
    """Append what this attempt is: command, time, commit, versions and machine, without names of hosts or users.

    Args:
        run_dir: The run folder.
        words: The command line as in ``sys.argv``; paths in it stay as they were typed.
        trainer: The first one of the attempt.
        seed: Seed of the run.
    """
    record = {
        "command": shlex.join(["python", *words]),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **read_commit(_ROOT),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": describe_devices(trainer),
        "world_size": trainer.world_size,
        "seed": seed,
    }
    make_folder(run_dir)
    path = run_dir / PROVENANCE
    if path.is_file():
        mend_lines(path)  # cuts off what a kill has left torn
    append_lines(path, [record])


def read_commit(folder: Path) -> dict[str, Any]:
    """Look a checkout up.

    Args:
        folder: Its root.

    Returns:
        ``commit`` and whether it is ``dirty``, that is, files that git follows differ; both None where the folder is no
        root of a checkout or there is no git.
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != folder.resolve():  # installed below somebody else's checkout
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def describe_devices(trainer: Trainer) -> str:
    """Number and kind of the devices of a node, such as ``8 x NVIDIA A100-SXM4-80GB`` or ``2 x CPU``."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{trainer.num_devices} x {kind}"


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
