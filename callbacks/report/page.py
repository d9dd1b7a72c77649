"""The page: every section of every run that is shown, laid out by a template."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from callbacks.report.charts import Chart
from callbacks.report.costs import Costs, compare_costs, costs
from callbacks.report.drawn import Drawn, drawn
from callbacks.report.explained import Explained, explained
from callbacks.report.headline import ComparedRow, Headline, compare, headline
from callbacks.report.looking import Looking, looking
from callbacks.report.mined import Mined, mined
from callbacks.report.missing import Missing, attempt
from callbacks.report.opened import OpenedRun
from callbacks.report.projections import Projections, projections
from callbacks.report.reading import RunRecord, read_run
from callbacks.report.settings import FILE, Report
from callbacks.synthesis.files import make_folder, write_bytes
from callbacks.table import METRICS, Group

T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """One run, section by section; what cannot be shown says why.

    Attributes:
        record: What was read of the run.
        title: What tells it from other runs of the page.
        unopened: Why its data and models are not at hand, "" where they are.
        config: Its configuration as YAML.
    """

    record: RunRecord
    title: str
    unopened: str
    headline: Headline | Missing
    mined: Mined | Missing
    explained: Explained | Missing
    drawn: Drawn | Missing
    looking: Looking | Missing
    projections: Projections | Missing
    costs: Costs | Missing
    config: str


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        rows: Mean and deviation over seeds.
        csv: The single values as a data URI.
        charts: What the runs took.
        left_out: Sentences on runs that are not in the table.
    """

    rows: list[ComparedRow]
    csv: str
    charts: list[Chart]
    left_out: list[str]


def show_run(record: RunRecord, opened: OpenedRun | Missing, settings: Report, title: str) -> Section:
    """Build every section of a run.

    Args:
        record: What was read of it.
        opened: Its data and models, or why they are not at hand.
        settings: What to show.
        title: What tells it from other runs.
    """
    read = opened if isinstance(opened, Missing) else attempt(lambda: _with_data(opened))
    at_hand = None if isinstance(read, Missing) else read
    last = record.stages[-1].name if record.stages else None

    def aligned() -> tuple[int, ...] | None:
        return None if at_hand is None else at_hand.data.aligned_bias

    # the features of many images take a while; only a terminal shows the bar
    with tqdm(total=7, desc="report", unit=" sections", leave=False, dynamic_ncols=True, disable=None) as bar:

        def section(build: Callable[[], T]) -> T | Missing:
            built = attempt(build)
            bar.update()
            return built

        return Section(
            record=record,
            title=title,
            unopened=read.reason if isinstance(read, Missing) else "",
            headline=section(lambda: headline(record, aligned())),
            mined=section(lambda: mined(record, at_hand, settings)),
            explained=section(lambda: explained(record)),
            drawn=section(lambda: drawn(record, at_hand, settings, last)),
            looking=section(lambda: looking(record, at_hand)),
            projections=section(lambda: projections(record, at_hand, settings)),
            costs=section(lambda: costs(record)),
            config=yaml.safe_dump(record.config, sort_keys=False),
        )


def _with_data(opened: OpenedRun) -> OpenedRun:
    """Read the data now, so that one sentence tells of all sections that they are not there."""
    opened.data.setup()
    return opened


def compare_runs(
    groups: Sequence[Group], records: Sequence[tuple[str, RunRecord]], left_out: Sequence[str]
) -> Comparison:
    """Put several runs side by side.

    Args:
        groups: The finished runs, those that differ only in their seed together.
        records: Title and record of every run.
        left_out: Sentences on runs that the table leaves out.
    """
    rows, csv = compare(groups)
    charts, unknown = compare_costs(records)
    return Comparison(rows, csv, charts, [*left_out, *unknown])


def report_run(run_dir: Path, opened: OpenedRun, settings: Report) -> None:
    """Write the report of one run into its folder.

    Args:
        run_dir: The run folder.
        opened: Its data and models.
        settings: What to show.

    Raises:
        ConfigError: A file of the run is damaged, or the page cannot be written.
    """
    record = read_run(run_dir)
    write_report(run_dir / FILE, [show_run(record, opened, settings, record.name)])


def write_report(path: Path, sections: Sequence[Section], comparison: Comparison | None = None) -> None:
    """Write the page, in one file that needs no other.

    Args:
        path: Where to.
        sections: The runs to show.
        comparison: Several runs side by side, if there are several.

    Raises:
        ConfigError: It cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("callbacks.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "command": shlex.join,
        "digits": digits,
        "moment": moment,
    }
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    style = Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
    text = environment.get_template("page.html.j2").render(
        sections=sections,
        comparison=comparison,
        metrics=[name.replace("_", " ") for name in METRICS],
        style=style,
    )
    make_folder(path.absolute().parent)
    write_bytes(path, text.encode())


def percent(value: float | None) -> str:
    """A value in 0..1 as per cent with one digit; a dash where it is not known."""
    return "-" if value is None else f"{100 * value:.1f}"


def digits(value: float | None) -> str:
    """A number with three digits that count, never as a power of ten; a dash where it is not known."""
    return "-" if value is None else np.format_float_positional(value, 3, fractional=False, trim="-")


def moment(started: str) -> str:
    """A time in UTC as ``2026-01-02 03:04 UTC``; what is no ISO time stays as it is."""
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def duration(seconds: float) -> str:
    """A time as hours, minutes and seconds, without leading zeros."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
