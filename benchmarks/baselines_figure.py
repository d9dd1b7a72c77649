"""Draw docs/images/baselines.png from docs/results/baselines.csv and docs/results/published.csv.

python train.py table runs --csv docs/results/baselines.csv
python -m benchmarks.baselines_figure
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
PERCENTS = ("0.5pct", "1pct", "2pct", "5pct", "official")
SETS = {"cmnist": "CMNIST", "cifar10c": "Corrupted CIFAR-10", "dogs_and_cats": "Dogs & Cats", "bar": "BAR"}
# what is published is on images in conflict alone
METRICS = {"Dogs & Cats": "conflict"}
METHODS = {
    "vanilla": ("Vanilla", "#9a9a88"),
    "lff": ("LfF", "#b39433"),
    "rebias": ("ReBias", "#c0564b"),
    "disent": ("DisEnt", "#4c9459"),
    "lff_be": ("LfF + BE", "#2c6e8f"),
}
Values = dict[tuple[str, str, str], list[float]]


def ours() -> Values:
    """Accuracy of the last epoch, %, of every seed, by (set, method, percent)."""
    values: Values = defaultdict(list)
    with (ROOT / "docs/results/baselines.csv").open() as file:
        for row in csv.DictReader(file):
            config, _, percent = row["group"].partition("/data.percent=")
            prefix = next((prefix for prefix in SETS if config.startswith(f"{prefix}_")), None)
            if prefix is None:
                continue
            name, method = SETS[prefix], config.removeprefix(f"{prefix}_")
            if (row["selection"], row["metric"]) == ("test", METRICS.get(name, "accuracy")):
                values[name, method, percent or "official"].append(100 * float(row["value"]))
    return values


def published() -> Values:
    """Published mean and sd, %, by (set, method's name, percent)."""
    with (ROOT / "docs/results/published.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(r["set"], r["method"], r["percent"]): [float(r["accuracy"]), float(r["sd"] or 0)] for r in rows}


def draw(axis: Axes, name: str, own: Values, others: Values) -> None:
    """Draw one data set: bars for ours, diamonds for what is published."""
    percents = [p for p in PERCENTS if any((name, method, p) in own for method in METHODS)]
    width = 0.8 / len(METHODS)
    for place, (method, (label, colour)) in enumerate(METHODS.items()):
        for position, percent in enumerate(percents):
            x = position + (place - (len(METHODS) - 1) / 2) * width
            values = own.get((name, method, percent), [])
            if values:
                error = stdev(values) if len(values) > 1 else 0.0
                axis.bar(x, mean(values), width, yerr=error, color=colour, capsize=2, label=label)
            if (name, label, percent) in others:
                value, error = others[name, label, percent]
                axis.errorbar(x, value, error, fmt="D", color="black", markerfacecolor="white", markersize=5, zorder=3)
    axis.set_xticks(range(len(percents)), [p.replace("pct", " %") for p in percents])
    axis.set_xlim(-0.5, len(percents) - 0.5)
    axis.set_ylabel(f"accuracy on {METRICS.get(name, 'all')} test images, %", fontsize=9)
    axis.set_xlabel("split" if percents == ["official"] else "training images in conflict with the bias", fontsize=9)
    axis.set_title(name, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Read both tables and draw one plot a data set."""
    own, others = ours(), published()
    names = [name for name in SETS.values() if any(key[0] == name for key in own)]
    groups = [len({percent for own_name, _, percent in own if own_name == name}) for name in names]
    widths = [1 + count for count in groups]
    figure, axes = plt.subplots(1, len(names), figsize=(1.3 * sum(widths), 3.6), width_ratios=widths, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        draw(axis, name, own, others)
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend = dict(zip(labels, handles, strict=True))
    diamond = axes[0][0].plot([], [], "D", color="black", markerfacecolor="white", markersize=5)[0]
    legend["published"] = diamond
    figure.legend(legend.values(), legend.keys(), fontsize=8, frameon=False, loc="lower center", ncols=len(legend))
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(ROOT / "docs/images/baselines.png", dpi=110)


if __name__ == "__main__":
    main()
