"""Accuracies of several models beside each other."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

from callbacks.table import METRICS

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by all eyes: Okabe and Ito


def draw_bars(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a group of bars a metric, with a bar a model in each.

    Args:
        rows: Metrics in 0..1 by model; what a model lacks has no bar.
    """
    with mpl.rc_context({"text.parse_math": False}):  # a name may have a dollar sign
        return _draw(rows)


def _draw(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    metrics = [name for name in METRICS if any(name in row for row in rows.values())]
    figure = Figure(figsize=(2 + 1.5 * len(metrics), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, (model, row) in enumerate(rows.items()):
        known = [(place, 100 * row[name]) for place, name in enumerate(metrics) if name in row]
        places = [place + (number - (len(rows) - 1) / 2) * width for place, _ in known]
        bars = axes.bar(places, [value for _, value in known], width, label=model, color=COLOURS[number % len(COLOURS)])
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=1)
    axes.set_xticks(range(len(metrics)), [name.replace("_", " ") for name in metrics])
    axes.set_ylim(0, 108)
    axes.set_ylabel("test set, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(len(rows), 4), frameon=False)
    return figure
