"""Draw docs/images/effect.png from docs/results/miniature_effect.csv.

python -m benchmarks.figures
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
COLOURS = {
    "biased model": "#c0564b",
    "ERM": "#9a9a88",
    "mined repeated (control)": "#b39433",
    "DiffuBias": "#4c9459",
    "DiffuBias + mined repeated (ours)": "#2c6e8f",
    "oracle (balanced data)": "#d0d0d0",
}


def main() -> None:
    """Read the CSV and draw one group of bars a conflict ratio."""
    accuracy: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (ROOT / "docs/results/miniature_effect.csv").open() as file:
        for row in csv.DictReader(file):
            accuracy[float(row["ratio"])][row["method"]].append(100 * float(row["accuracy"]))
    ratios = sorted(accuracy, reverse=True)
    figure, axes = plt.subplots(1, len(ratios), figsize=(9.5, 3.2), sharey=True, squeeze=False)
    for axis, ratio in zip(axes[0], ratios, strict=True):
        for position, (method, colour) in enumerate(COLOURS.items()):
            values = accuracy[ratio][method]
            error = stdev(values) if len(values) > 1 else 0.0
            axis.barh(-position, mean(values), xerr=error, color=colour, capsize=3)
            axis.text(mean(values) + error + 1.5, -position, f"{mean(values):.1f}", va="center", fontsize=9)
        axis.set_yticks([-p for p in range(len(COLOURS))], list(COLOURS))
        axis.set_xlim(0, 112)
        axis.axvline(12.5, color="#888888", linewidth=0.8, linestyle=":")
        axis.set_title(f"{ratio:.0%} of the training images in conflict", fontsize=10)
        axis.set_xlabel("unbiased accuracy, % (dotted: chance)", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/effect.png", dpi=110)


if __name__ == "__main__":
    main()
