"""Many runs of ``fit``, over configurations, settings and seeds: ``train.py sweep``. No heavy imports."""

import argparse
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from callbacks.table import METRICS, OneLineArguments, find_runs, show

CONFIG = "config.yaml"
LOG = "fit.log"
COMMAND = "command.json"
LONGEST = 100  # letters that a folder has of a setting
GRACE = 30  # seconds that a run gets to end after it was told to
_OURS = ("config", "run_dir", "seed_everything", "ckpt_path")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: Configuration, varied settings and seed.
        folder: The run folder.
        words: The arguments after ``fit``.
        digest: SHA-256 of the configuration file.
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    digest: str

    @property
    def is_finished(self) -> bool:
        """Whether this very command has run to its end; what another one left is for ``fit`` to judge."""
        try:
            stored = json.loads((self.folder / COMMAND).read_text())
        except (OSError, ValueError):
            return False
        return (self.folder / "results.json").is_file() and bool(stored == self._command())

    def remember(self) -> None:
        """Write down the command after it has run to its end."""
        temporary = self.folder / f"{COMMAND}.tmp"
        temporary.write_text(json.dumps(self._command(), indent=1) + "\n")
        os.replace(temporary, self.folder / COMMAND)

    def _command(self) -> dict[str, object]:
        return {"words": [*self.words], "config_sha256": self.digest}


def plan(
    configs: Sequence[Path],
    seeds: Sequence[int],
    variations: Sequence[Sequence[str]],
    runs: Path,
    further: Sequence[str],
) -> list[Job]:
    """List the runs of a sweep: every configuration with every combination of the varied settings and every seed.

    Args:
        configs: Configuration files.
        seeds: Seeds of the runs.
        variations: Settings to vary, each a key and its values.
        runs: Folder of the run folders, which are ``CONFIG/KEY=VALUE/seed-S`` in it.
        further: Arguments for every run.

    Returns:
        The runs; all seeds of one setting follow one another.
    """
    jobs = []
    keys = [key for key, *_ in variations]
    for config, name in zip(configs, _names(configs), strict=True):
        digest = hashlib.sha256(config.read_bytes()).hexdigest()
        for values in itertools.product(*(own for _, *own in variations)):
            settings = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
            place = "/".join([name, *map(_folder, settings)])
            for seed in seeds:
                own = [f"--{setting}" for setting in settings]
                folder = runs / place / f"seed-{seed}"
                ends = [f"--seed_everything={seed}", f"--run_dir={folder}"]
                words = (f"--config={config}", "--trainer.enable_progress_bar=false", *further, *own, *ends)
                jobs.append(Job(f"{place}/seed-{seed}", folder, words, digest))
    return jobs


def _folder(setting: str) -> str:
    """Name a folder after a setting; where that takes other letters or too many, a digest keeps two settings apart."""
    name = re.sub(r"[^\w.=,+-]", "_", setting)[:LONGEST]
    return name if name == setting else f"{name}-{hashlib.sha256(setting.encode()).hexdigest()[:6]}"


class Sweep:
    """Runs of ``fit`` in processes of their own, several at once, each with its output in its run folder.

    Args:
        jobs: The runs.
        at_once: How many run at the same time; None runs one a GPU, or one alone.
        gpus: GPUs that are dealt out to them, one each; none leaves the choice to ``fit``.

    Attributes:
        failures: The runs that failed, each with the line that says why.
        refused: Runs whose settings ``fit`` does not take, with those that were not tried because they differ from one
            of them in nothing but the seed.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int | None = None, gpus: Sequence[str] = ()) -> None:
        self.jobs = list(jobs)
        self.gpus = list(gpus)
        self.at_once = at_once or len(self.gpus) or 1
        self.failures: dict[Job, str] = {}
        self.refused: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes], int, float]] = {}

    def run(self) -> dict[Job, str]:
        """Run what is not finished, and go on after a failure.

        Returns:
            ``failures``.
        """
        waiting = self._waiting = deque(job for job in self.jobs if not job.is_finished)
        done = len(self.jobs) - len(waiting)
        if done:
            _say(f"{done} of {len(self.jobs)} runs are finished already")
        with tqdm(total=len(self.jobs), initial=done, unit="run", desc="sweep", disable=None) as bar:
            try:
                while waiting or self._running:
                    for slot in range(self.at_once):
                        if slot not in self._running and waiting:
                            self._start(slot, waiting.popleft())
                    for slot in [slot for slot, own in self._running.items() if own[1].poll() is not None]:
                        bar.update()
                        self._end(slot, f"[{len(self.jobs) - len(waiting) - len(self._running) + 1}/{len(self.jobs)}]")
                    bar.set_postfix_str(", ".join(own[0].name for own in self._running.values()))
                    time.sleep(0.1)
            finally:
                self._stop()
        return self.failures

    def environment(self, slot: int) -> dict[str, str]:
        """Environment of the runs in one of the ``at_once`` places."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment = {"OMP_NUM_THREADS": str(max(1, cores // self.at_once)), **os.environ}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return environment

    def _start(self, slot: int, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, str(Path(__file__).parents[1] / "train.py"), "fit", *job.words]
        with (job.folder / LOG).open("ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            begin = log.tell()
            # a session of its own: Ctrl-C comes to us alone, and what the run starts can be ended with it
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(slot),
                start_new_session=True,
            )  # fmt: skip
        self._running[slot] = job, process, begin, time.monotonic()

    def _end(self, slot: int, count: str) -> None:
        job, process, begin, start = self._running.pop(slot)
        if process.returncode == 0:
            job.remember()
            _say(f"{count} {job.name}: done in {time.monotonic() - start:.0f} s")
            return
        _signal(process, signal.SIGKILL)  # further ranks of it would wait for the one that has failed, on our devices
        self.failures[job] = _reason(job.folder / LOG, begin, process.returncode)
        _say(f"{count} {job.name}: failed, {self.failures[job]}")
        if process.returncode == 2 and not (job.folder / CONFIG).exists():  # which a fit writes once it is checked
            self._refuse(job)

    def _refuse(self, job: Job) -> None:
        """Leave out what differs from a refused run in nothing but the seed: it would be refused too."""
        alike = [other for other in self._waiting if other.folder.parent == job.folder.parent]
        self.refused |= {job, *alike}
        for other in alike:
            self._waiting.remove(other)
        if alike:
            _say(f"left out, the same settings: {', '.join(other.name for other in alike)}")

    def _stop(self) -> None:
        """End what still runs, so that it can be resumed."""
        processes = [process for _, process, _, _ in self._running.values()]
        if processes:
            _say(f"stopping {len(processes)} runs")
        deadline = time.monotonic() + GRACE
        try:
            for process in processes:
                _signal(process, signal.SIGTERM)
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # in a hurry after a second Ctrl-C
            for process in processes:
                _signal(process, signal.SIGKILL)
        self._running.clear()


def main(words: Sequence[str]) -> int:
    """Run ``train.py sweep``.

    Args:
        words: The arguments after ``sweep``.

    Returns:
        The exit status: 0, 1 if a run failed, 2 if the settings of all are wrong, 130 after Ctrl-C, 128 + n after
        signal n.
    """
    parser = _parser()
    arguments, further = parser.parse_known_args(words)
    _check(parser, arguments, further)
    jobs = plan(arguments.config, arguments.seeds, arguments.vary, arguments.runs, further)
    sweep = Sweep(jobs, arguments.jobs, arguments.gpus)
    try:
        with _signals_end_us():
            failures = sweep.run()
        # a failed run may have found the results of other settings in its folder
        kept = [job.folder for job in jobs if job not in failures and job not in sweep.refused]
        runs, unfinished = find_runs(kept, arguments.runs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except (KeyboardInterrupt, SystemExit) as end:
        _say("stopped; the same command goes on where it was")
        return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 128 + signal.SIGINT
    show(runs, unfinished, METRICS, every_stage=False)
    if failures:
        _say(f"{len(failures)} of {len(jobs)} runs failed:")
        for job, reason in failures.items():
            _say(f"  {job.name}: {reason} ({job.folder / LOG})")
    return 2 if len(sweep.refused) == len(jobs) else int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineArguments(
        prog="train.py sweep",
        usage="%(prog)s --config FILE [FILE ...] [--seeds S [S ...]] [--vary KEY VALUE [VALUE ...]] [--runs DIR]"
        " [--jobs N] [--gpus N [N ...]] [--KEY VALUE ...]",
        description="Run fit for every configuration with every combination of varied settings and every seed, each in"
        " its own folder DIR/CONFIG/KEY=VALUE/seed-S, then print the table. The same command goes on where it was"
        " stopped, leaves finished runs alone and tries failed ones again. All further arguments go to every fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", type=Path, required=True, metavar="FILE", help="configuration files"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="S", help="default 1 2 3")
    parser.add_argument(
        "--vary", nargs="+", action="append", default=[], metavar=("KEY", "VALUE"),
        help="a setting and the values it takes, such as model.lr 1e-3 1e-4; may be given several times",
    )  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default runs")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at the same time; default one a GPU of --gpus, 1 without"
    )
    parser.add_argument(
        "--gpus", nargs="+", default=[], metavar="N", help="GPUs dealt out to the runs, one each, such as 0 1 2 3"
    )
    return parser


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, further: Sequence[str]) -> None:
    """Refuse what would fail in every run."""
    for file in arguments.config:
        if not file.is_file():
            parser.error(f"--config: there is no file {file}; give configurations such as configs/miniature.yaml")
    for name, values in (("config", arguments.config), ("seeds", arguments.seeds)):
        if len(set(values)) < len(values):
            parser.error(f"--{name}: {' '.join(map(str, values))} names one twice; leave it out")
    if min(arguments.seeds) < 0:
        parser.error(f"--seeds: {min(arguments.seeds)} is negative; give numbers from 0")
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs: {arguments.jobs} is too small; give at least 1")
    keys = [own[0].lstrip("-") for own in arguments.vary]
    for key, own in zip(keys, arguments.vary, strict=True):
        if len(own) < 2 or len(set(own)) < len(own) or keys.count(key) > 1:
            parser.error(f"--vary {' '.join(own)}: give a key once, and at least one value, each once")
    if further and not further[0].startswith("--"):
        parser.error(f"{further[0]}: what is this for? give settings as --KEY VALUE")
    given = [word.removeprefix("--").partition("=")[0] for word in further if word.startswith("--")]
    for key in [*keys, *given]:
        # fit would take the beginning of a key for the key
        if full := next((own for own in vars(arguments) if own.startswith(key) and own != key), None):
            parser.error(f"--{key}: write --{full} in full")
        if any(own.startswith(key) for own in _OURS):
            parser.error(f"--{key}: the sweep gives this to the runs itself; use --config, --seeds and --runs")


def _names(configs: Sequence[Path]) -> list[str]:
    """Short names of configurations: the file's, with its folders below the common one where several are alike."""
    stems = [config.stem for config in configs]
    if len(set(stems)) == len(stems):
        return stems
    files = [config.resolve().with_suffix("") for config in configs]
    common = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(common).as_posix() for file in files]


@contextmanager
def _signals_end_us() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the sweep as Ctrl-C does, with the runs stopped and resumable."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to a run and to all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _reason(log: Path, begin: int, status: int) -> str:
    """The line of a log that says why a run failed."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"status {status}"])[-1][:500]


def _say(text: str) -> None:
    """Write a line without tearing the bar."""
    tqdm.write(text, file=sys.stderr)
