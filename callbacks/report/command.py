"""``train.py report``: the page of one run, or of several side by side."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from callbacks.report.missing import Missing, attempt
from callbacks.report.opened import OpenedRun
from callbacks.report.page import Comparison, Section, compare_runs, show_run, write_report
from callbacks.report.reading import read_run
from callbacks.report.settings import FILE, Projection, Report
from callbacks.run_folder import CONFIG
from callbacks.synthesis.manifest import CONTRAST
from callbacks.table import Group, OneLineArguments, Run, find_runs, group_runs
from lightning_modules.errors import ConfigError

FLAGS = tuple(own.name for own in fields(Report) if own.name != "enabled")
LOGGER = logging.getLogger("diffubias")
Opener = Callable[[Path, Sequence[str]], OpenedRun]


def main(words: Sequence[str], open_run: Opener) -> int:
    """Run ``train.py report``.

    Args:
        words: The arguments after ``report``.
        open_run: Makes data and models of a run folder, with further settings as on the command line of ``fit``.

    Returns:
        The exit status.

    Raises:
        ConfigError: There is no run, a file of it is damaged, or nothing can be explained.
    """
    parser = _parser()
    arguments, further = parser.parse_known_args(words)
    if further and not further[0].startswith("--"):
        parser.error(f"{further[0]}: what is this for? give run folders first, then settings as --KEY VALUE")
    if wrong := next((word for word in further if word.startswith("--report.")), None):
        parser.error(f"{wrong}: on this command it is --{wrong.removeprefix('--report.')}")
    given = {name: value for name in FLAGS if (value := getattr(arguments, name)) is not None}
    Report(**given)  # a mistake just typed, before anything takes time
    runs, unfinished = _find(arguments.folders)
    folders = [*(run.folder for run in runs), *unfinished]
    if len(folders) > 1 and arguments.out is None:
        parser.error(f"--out: {len(folders)} runs make a page of their own; say where it goes, such as --out {FILE}")
    if arguments.out is not None and arguments.out.is_dir():
        parser.error(f"--out: {arguments.out} is a folder; give a file in it, such as {arguments.out / FILE}")
    if arguments.explain < 0:
        parser.error(f"--explain: {arguments.explain} is negative; give the number of images of each class")

    def show(folder: Path, title: str | None = None) -> Section:
        opened = attempt(lambda: open_run(folder, further))
        if further and isinstance(opened, Missing):  # most likely by what was just typed
            raise ConfigError(opened.reason)
        if isinstance(opened, OpenedRun) and any(word.startswith("--data") for word in further):
            opened.data.setup()  # a mistake just typed: the page alone would say that there are no pictures
        if arguments.explain:
            _explain(opened, arguments.explain)
        record = read_run(folder)
        own = {name: value for name, value in (record.config.get("report") or {}).items() if name in FLAGS}
        return show_run(record, opened, Report(**{**own, **given}), title or record.name)

    out = arguments.out or folders[0] / FILE
    if len(folders) == 1:
        write_report(out, [show(folders[0])])
    else:
        groups, doubles = group_runs([run for run in runs if run.classifies])
        shown = [show(group.runs[0].folder, group.name) for group in groups]
        bare = [run.folder for run in runs if not run.classifies]
        shown += [show(folder, f"{folder.name} (nothing in it classifies)") for folder in bare]
        shown += [show(folder, f"{folder.name} (not finished)") for folder in unfinished]
        write_report(out, shown, _compare(groups, doubles))
    print(f"report: {out}")
    return 0


def _parser() -> OneLineArguments:
    parser = OneLineArguments(
        prog="train.py report",
        description="Make one HTML page of a run, finished or not, or of several side by side. Further settings,"
        " such as --data.root DIR where the data were moved, replace those of the run. By default it shows"
        " as much as the run's own report.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders of them")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"where to; for one run RUN_DIR/{FILE}")
    parser.add_argument(
        "--explain", type=int, default=0, metavar="N",
        help="caption N images of each class that have the lowest losses, where the run has not done so, to tell what"
        " the bias was; loads the captioner of the run",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, metavar="N", help="pictures a class and gallery")
    parser.add_argument("--points", type=int, metavar="N", help="images in a projection")
    parser.add_argument("--searched", type=int, metavar="N", help="real images to look for neighbours among")
    parser.add_argument(
        "--projections", nargs="+", choices=get_args(Projection),
        help="how features are laid out in the plane; umap needs the extra umap",
    )  # fmt: skip
    return parser


def _find(folders: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """Finished runs to be compared, and other runs in some folders; a folder that is a run keeps its path as typed."""
    for folder in folders:
        if not folder.exists():
            raise ConfigError(f"RUN_DIR: there is no folder {folder}; give the run folder of a fit")
    if len(folders) == 1 and (folders[0] / CONFIG).is_file():  # such as one without a classifier, which no table holds
        return [], list(folders)
    try:
        runs, unfinished = find_runs(folders)
    except ValueError as error:
        raise ConfigError(f"RUN_DIR: {error}") from error
    if not runs and not unfinished:
        raise ConfigError(f"RUN_DIR: no run in {', '.join(map(str, folders))}; give the run folder of a fit")
    typed = {folder.resolve(): folder for folder in folders}
    named = [replace(run, folder=typed.get(run.folder, run.folder)) for run in runs]
    return named, [typed.get(folder, folder) for folder in unfinished]


def _compare(groups: Sequence[Group], doubles: Sequence[Run]) -> Comparison:
    """Put the runs of all seeds side by side."""
    records = [
        (f"{group.name}, seed {run.seed}" if len(groups) > 1 else f"seed {run.seed}", read_run(run.folder))
        for group in groups
        for run in group.runs
    ]
    sentences = [f"{run.folder.name} has the settings and the seed of another run and is left out." for run in doubles]
    if any(len(group.runs) > 1 for group in groups):
        sentences.append("What follows is shown for the run with the lowest seed of each configuration.")
    return compare_runs(groups, records, sentences)


def _explain(opened: OpenedRun | Missing, count: int) -> None:
    """Caption images with low losses, where the run has not done so.

    Raises:
        ConfigError: The run has no captioner or no losses, or its data are not at hand.
    """
    if isinstance(opened, Missing):
        raise ConfigError(f"--explain: {opened.reason}")
    callback = opened.synthesis()
    callback.explain = count
    if callback.directory is None or callback.captioner is None:
        raise ConfigError("--explain: this run has no captioner; leave it out")
    if (callback.directory / CONTRAST).is_file():
        LOGGER.info("%s is there already: delete it to caption other images", callback.directory / CONTRAST)
        return
    callback.write_contrast(callback.directory, opened.data, opened.device)
    callback.captioner.release()
