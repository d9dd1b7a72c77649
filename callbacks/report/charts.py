"""Charts as inline SVG: lines and text take the colour of the page's text, to be legible in light and in dark."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks.report.pictures import csv_uri

SCOPE = "chart-id-"  # how ids begin; the page puts the number of the run after it
INK = "#010203"  # stands for the colour of text, no chart uses it otherwise
# of middling lightness: legible on white and on near-black
PALETTE = (
    "#3f83c8", "#e0772e", "#35a07c", "#cf4f6c", "#8c6fd0", "#b08a1e", "#2ba0ad", "#c561b0", "#7d9233", "#8a8f98",
)  # fmt: skip
BEFORE, AFTER = PALETTE[1], PALETTE[0]
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name may have a dollar sign
    "svg.fonttype": "none", "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.7, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "grid.alpha": 0.18, "grid.color": INK,
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart with its numbers.

    Attributes:
        title: What it shows.
        alt: What is to be seen, for those who do not see it.
        svg: The drawing.
        csv: Its numbers as a data URI.
        file: Name of the CSV file.
        legend: Colours and what they stand for.
    """

    title: str
    alt: str
    svg: str
    csv: str
    file: str
    legend: tuple[tuple[str, str], ...] = ()


def colours(count: int) -> list[str]:
    """Return as many colours as there are classes, the palette first."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    wheel = colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))[:, :3] * 0.8
    return [mpl.colors.to_hex(colour) for colour in wheel]


def lines_chart(
    title: str,
    x: NDArray[Any],
    series: dict[str, NDArray[np.float64]],
    labels: tuple[str, str],
    file: str,
    mark: float | None = None,
    level: float | None = None,
) -> Chart:
    """Draw shares in 0..1 against counts on a logarithmic axis.

    Args:
        title: What it shows.
        x: Positions [M].
        series: Values [M] by name.
        labels: What the axes show.
        file: Name of the CSV file.
        mark: Where to draw a vertical line.
        level: Where to draw a dotted horizontal line.
    """

    def draw(axes: Axes) -> None:
        for colour, values in zip(PALETTE, series.values(), strict=False):
            axes.plot(x, values, color=colour, linewidth=1.8)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8, alpha=0.6)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
        axes.set(xscale="log", ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(True)

    ends = ", ".join(f"{name} from {own[0]:.2f} to {own[-1]:.2f}" for name, own in series.items())
    table = csv_uri([labels[0], *series], zip(x.tolist(), *(own.tolist() for own in series.values()), strict=True))
    legend = tuple(zip(PALETTE, series, strict=False))
    return Chart(title, f"{title}: {ends}", _svg(draw, file), table, file, legend)


def histogram(title: str, series: dict[str, NDArray[np.float64]], label: str, file: str) -> Chart:
    """Draw how values are spread, each series as shares of its own."""
    every = np.concatenate(list(series.values()))
    edges = np.linspace(0, max(float(np.quantile(every, 0.995)), 1e-6), 41)
    shares = {name: np.histogram(own.clip(max=edges[-1]), edges)[0] / len(own) for name, own in series.items()}

    def draw(axes: Axes) -> None:
        for colour, own in zip(PALETTE, shares.values(), strict=False):
            axes.stairs(own, edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(own, edges, color=colour, linewidth=1.4)
        axes.set(xlabel=label, ylabel="share of images")
        axes.grid(True, axis="y")

    medians = ", ".join(f"median of {name} {np.median(own):.3g}" for name, own in series.items())
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), *(own.tolist() for own in shares.values()), strict=True)
    table = csv_uri(["from", "to", *series], rows)
    legend = tuple(zip(PALETTE, series, strict=False))
    return Chart(title, f"{title}: {medians}", _svg(draw, file), table, file, legend)


def scatter(
    title: str, points: NDArray[np.float32], groups: NDArray[np.int64], names: Sequence[str], file: str
) -> Chart:
    """Draw points [N, 2] in the colour of their group; what is not in a group (below 0) is left out."""
    wheel = colours(len(names))
    shown = groups >= 0
    points, groups = points[shown], groups[shown]

    def draw(axes: Axes) -> None:
        axes.scatter(
            points[:, 0], points[:, 1], c=[wheel[own] for own in groups], s=9, alpha=0.75, linewidths=0, rasterized=True
        )
        axes.set(xticks=[], yticks=[])
        axes.axis("off")

    rows = ([f"{x:.4f}", f"{y:.4f}", names[own]] for (x, y), own in zip(points.tolist(), groups.tolist(), strict=True))
    legend = tuple((wheel[own], names[own]) for own in np.unique(groups))
    alt = f"{title}: {len(points)} images in the plane"
    return Chart(title, alt, _svg(draw, file, (3.2, 2.8)), csv_uri(["x", "y", "group"], rows), file, legend)


def stacked_bars(title: str, values: dict[str, dict[str, float]], label: str, file: str) -> Chart:
    """Draw one horizontal bar a row, made of parts.

    Args:
        title: What it shows.
        values: Length of every part, by row and part.
        label: What lengths mean.
        file: Name of the CSV file.
    """
    parts = list(dict.fromkeys(part for own in values.values() for part in own))
    wheel = dict(zip(parts, colours(len(parts)), strict=True))

    def draw(axes: Axes) -> None:
        for row, own in enumerate(values.values()):
            left = 0.0
            for part, length in own.items():
                axes.barh(row, length, left=left, height=0.62, color=wheel[part])
                left += length
        # the ends of names tell seeds and settings apart
        axes.set_yticks(range(len(values)), [name if len(name) < 20 else f"{name[:8]}…{name[-10:]}" for name in values])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.grid(True, axis="x")

    rows = ((name, part, length) for name, own in values.items() for part, length in own.items())
    totals = ", ".join(f"{name} {sum(own.values()):.3g}" for name, own in values.items())
    svg = _svg(draw, file, (3.7, 1.0 + 0.34 * len(values)))
    return Chart(title, f"{title}, {label}: {totals}", svg, csv_uri(["run", "phase", label], rows), file,
                 tuple((wheel[part], part) for part in parts))  # fmt: skip


def _svg(draw: Callable[[Axes], None], salt: str, size: tuple[float, float] = (3.7, 2.4)) -> str:
    """Draw on fresh axes; the SVG has no size of its own, and only ids that it refers to."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    return _without_ids(text[text.index("<svg") :], f"{SCOPE}{_stem(salt)}").replace(INK, "currentColor")


def _without_ids(svg: str, prefix: str) -> str:
    """Drop ids that nothing refers to, and let the others differ from those of every other chart."""
    used = set(re.findall(r"#([\w-]+)\)", svg)) | set(re.findall(r'href="#([\w-]+)"', svg))
    for name in used:
        svg = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>{prefix}-{name}", svg)
    kept = {f"{prefix}-{name}" for name in used}
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in kept else "", svg)


def _stem(file: str) -> str:
    return re.sub(r"\W+", "-", file.removesuffix(".csv"))
