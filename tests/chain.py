"""Running ``train.py``: in this process, in a process of its own, or as a command."""

import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import yaml

from tests.generators import write_bar_official
from tests.layouts.celeba import write_celeba
from tests.layouts.cifar10 import write_cifar10
from tests.layouts.dogs_and_cats import write_folders
from tests.layouts.folder import write_folder
from tests.layouts.imagenet9 import write_imagenet9
from tests.layouts.mnist import write_mnist
from tests.layouts.release import write_release
from tests.layouts.spuco_animals import write_spuco_animals
from tests.layouts.table import write_table
from tests.layouts.urbancars import write_urbancars
from tests.layouts.utkface import write_utkface
from tests.layouts.waterbirds import write_waterbirds

ROOT = Path(__file__).parents[1]
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"]


# What writes each data set in small, below a folder.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "BAR": lambda root: write_bar_official(root, train=4, test=2),
    "BFFHQ": lambda root: write_release(root, classes=2),
    "CMNIST": lambda root: write_mnist(root, per_group=24, test=10),
    "CelebA": write_celeba,
    "CorruptedCIFAR10": lambda root: write_cifar10(root, per_group=24, test=10),
    "DogsAndCats": write_folders,
    "Folder": write_folder,
    "ImageNet9": lambda root: write_imagenet9(root, per_group=1),
    "SpuCoAnimals": write_spuco_animals,
    "Table": write_table,
    "UTKFace": write_utkface,
    "UrbanCars": write_urbancars,
    "Waterbirds": write_waterbirds,
}


@dataclass(frozen=True)
class Small:
    """Makes a configuration small: one epoch, few images, tiny models of the real classes.

    Attributes:
        captioner: Folder of a captioning model.
        generator: Folder of a diffusion pipeline.
        data: Folder of small data sets, which are written when they are asked for.
    """

    captioner: Path
    generator: Path
    data: Path

    def root(self, name: str) -> Path:
        """Return the folder or file of a data set, by the name of its class."""
        folder = self.data / name
        if not folder.exists():
            written = LAYOUTS[name](folder)
            (self.data / f"{name}.txt").write_text(str(written))
        return Path((self.data / f"{name}.txt").read_text())

    def __call__(self, config: Path) -> list[str]:
        """Return arguments to come after ``--config``."""
        settings: dict[str, Any] = yaml.safe_load(config.read_text())
        words = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=1"]
        words += ["trainer.check_val_every_n_epoch=1"]
        for name, stage in (settings.get("stages") or {}).items():
            words += [f"stages.{name}.max_epochs=1"] * ("max_epochs" in stage)
            words += [f"stages.{name}.repeat=3"] * ("repeat" in stage)
        for key in ("pretrain", "biased", "model"):
            own = settings.get(key, {}).get("init_args", {})
            draws = settings.get(key, {}).get("class_path") == "lightning_modules.TextToImage"
            words += [f"{key}.model={self.generator if draws else self.captioner}"] * ("model" in own)
            words += [f"{key}.weights=null"] * ("weights" in own)
            words += [f"{key}.backbone=resnet18"] * (own.get("backbone") == "resnet50")
        learnt = settings.get("diffusion", {}).get("class_path", "").removeprefix("lightning_modules.")
        if learnt == "TextToImage":
            words += [f"diffusion.model={self.generator}"]
        elif learnt:
            words += ["diffusion.channels=[8,16]", "diffusion.attention=[false,true]", "diffusion.layers_per_block=1"]
            words += ["diffusion.size=16", "diffusion.grid_images=1", "diffusion.grid_steps=1"]
        for key in ("gan", "adapted"):
            if key in settings:
                words += [
                    f"{key}.{setting}" for setting in ("size=16", "width=2", "latent=8", "repeats=1", "grid_images=1")
                ]
        if settings.get("gan", {}).get("class_path") == "lightning_modules.StyleGAN2":
            words += ["gan.style=8", "gan.mapping_layers=1", "gan.max_channels=8"]
        name = settings["data"]["class_path"].removeprefix("datamodules.")
        if name == "Miniature":
            words += ["data.train_size=160", "data.test_size=101", "data.val_size=32", "data.batch_size=32"]
            words += ["data.conflict_ratio=0.1", "trainer.precision=32-true"]
        else:
            words += [f"data.{'file' if name == 'Table' else 'root'}={self.root(name)}", "data.batch_size=8"]
            words += ["data.num_workers=0", f"data.image_size={28 if name == 'CMNIST' else 32}"]
            words += ["data.percent=5pct"] * ("percent" in settings["data"]["init_args"])
        words += ["report.points=30", "report.pictures=1", "report.projections=[pca]"]
        if "synthesize" in settings:
            words += ["synthesize.top_k=2", "synthesize.images=3"]
            if learnt == "ClassDiffusion" or "adapted" in settings:
                words += ["synthesize.generator.steps=1"]
            elif "gan" in settings:
                pass  # it draws at once
            elif settings["synthesize"].get("generator", {}) is not None:
                words += self.models("prompts" not in settings["synthesize"])
        return [f"--{word}" for word in words]

    def models(self, captions: bool = True) -> list[str]:
        """Return settings of the generator, and of the captioner where there is one."""
        captioner = {"model": self.captioner, "batch_size": 4, "max_new_tokens": 5, "captions_per_image": 2}
        generator = {"model": self.generator, "batch_size": 4, "steps": 1, "guidance": 1.0, "revision": "null"}
        parts = {"captioner": captioner, "generator": generator} if captions else {"generator": generator}
        return [f"synthesize.{part}.{key}={value}" for part, own in parts.items() for key, value in own.items()]


def small_backbones(config: Path) -> list[str]:
    """Arguments that put our small network in the place of a ResNet."""
    settings = yaml.safe_load(config.read_text())
    keys = [key for key in ("pretrain", "biased", "model") if key in settings]
    backbones = {key: settings[key].get("init_args", {}).get("backbone", "") for key in keys}
    return [f"--{key}.backbone=smallresnet" for key, own in backbones.items() if own in ("resnet18", "resnet50")]


@dataclass(frozen=True)
class Outcome:
    """What came of a run: exit status, and what was printed."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of complaint."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put environment variables, arguments and the working directory back afterwards."""
    before, folder, words = dict(os.environ), Path.cwd(), sys.argv
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(folder)
        sys.argv = words


def call(*args: str) -> Outcome:
    """Run the command line in this process."""
    from tests.preload import train

    out, err, status = io.StringIO(), io.StringIO(), 0
    with restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(ROOT)
        sys.argv = ["train.py", *args]
        try:
            train.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    gc.collect()  # trainers and modules hold each other, and the networks of a hundred runs are many
    return Outcome(status, out.getvalue(), err.getvalue())


class Process:
    """The command line in a process of its own, forked from a server that has imported the heavy libraries.

    Args:
        args: Arguments.
        folder: Where the output goes.
        env: Further environment variables.
    """

    def __init__(self, args: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self._files = folder / "out.txt", folder / "err.txt"
        self._process: ForkServerProcess = get_context("forkserver").Process(
            target=_main, args=([*args], *self._files, environment)
        )
        self._process.start()

    def end(self, timeout: float = 600) -> Outcome:
        """Wait for the end; a negative status is the signal that killed it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"still running after {timeout} s: {self._files[1].read_text()}")
        out, err = (file.read_text() for file in self._files)
        return Outcome(self._process.exitcode, out, err)


def _main(args: list[str], out: Path, err: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    sys.argv = ["train.py", *args]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    import train

    torch.set_num_threads(1)
    # Found out at the import, before this process had its environment.
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", "0"))  # type: ignore[attr-defined]
    train.main()


def run(args: Sequence[str], folder: Path, fault: str = "", timeout: float = 600) -> Outcome:
    """Run the command line in a process of its own, with a fault of ``tests.faults``."""
    return Process(args, folder, {"DIFFUBIAS_FAULT": fault}).end(timeout)


def run_ranks(args: Sequence[str], folder: Path, fault: str = "", timeout: float = 600) -> list[Outcome]:
    """Run the command line in two processes that find each other as Lightning's own children do."""
    shared = {"DIFFUBIAS_FAULT": fault, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"NODE_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [Process([*args, *TWO], folder / str(rank), shared | {"LOCAL_RANK": str(rank)}) for rank in range(2)]
    return [process.end(timeout) for process in ranks]


def free_port() -> int:
    """Find a port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*words: str, timeout: float = 600, **env: str) -> Outcome:
    """Run a command line of the README in the repository; nothing that it starts outlives it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env}
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Outcome(process.returncode, out, err)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def reached(run_dir: Path) -> dict[str, Any]:
    """What a run has reached, without what it has cost, in which equal runs differ."""
    found: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    assert found.pop("emissions")["minutes"] > 0
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {name: content for name, (_, content) in files(folder).items()}


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Status 2 and one line that names what is wrong and what to do, without a traceback."""
    assert outcome.status == 2, outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.errors[0]) < 600
    for part in parts:
        assert part in outcome.errors[0]


def vanilla(small: Small, run_dir: Path, *words: str) -> list[str]:
    """The words that fit one plain classifier of the embedded default."""
    config = ROOT / "configs/miniature_vanilla.yaml"
    return ["fit", f"--config={config}", *small(config), f"--run_dir={run_dir}", *words]
