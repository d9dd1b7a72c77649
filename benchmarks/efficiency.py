"""Time, energy and peak memory of DiffuBias, AmpliBias and A² on the same data, training and inference apart.

    python -m benchmarks.efficiency
    python -m benchmarks.efficiency --data_set bffhq --images 1000 -- --data.root path/to/bffhq

Runs the three chains for the same number of images, one after the other, and draws what their emissions.jsonl say, as
Figure 3 of the paper (arXiv 2411.16079) does: training is the fits of the generators, inference the captioning and the
drawing. Classifiers and mining are the same for all and left out. Finished runs are not run again. What stands behind
`--` goes to all of them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml

from benchmarks.miniature_effect import ROOT, fit
from benchmarks.over_seeds import write_rows
from callbacks.emissions import WORLD_AVERAGE
from callbacks.emissions_log import duration, read_records

mpl.use("Agg")
import matplotlib.pyplot as plt

SYSTEMS = {"DiffuBias": "", "AmpliBias": "_amplibias", "A²": "_a2"}
GENERATORS = ("diffusion", "gan", "adapted")  # modules that learn to draw
PARTS = {"training": "#c0564b", "inference": "#2c6e8f"}


def part_of(record: dict[str, Any], stages: dict[str, dict[str, Any]]) -> str | None:
    """Tell whether a phase belongs to ``training`` or to ``inference`` of a generator, or to neither."""
    if record["phase"] in ("captioning", "generation"):
        return "inference"
    stage = stages.get(record["stage"], {})
    return "training" if record["phase"] == "fit" and stage.get("module") in GENERATORS else None


def read_costs(run_dir: Path) -> dict[str, dict[str, float | str]]:
    """Add up what the two parts of a run took.

    Args:
        run_dir: A finished run.

    Returns:
        For ``training`` and ``inference``: ``seconds``, ``kwh``, ``grams`` at the world's average, the greatest
        ``memory_mib`` of a process and ``gpu_memory_mib`` allocated on a GPU, and the ``devices``; what is not known is
        left out, and what took nothing is 0.
    """
    stages = yaml.safe_load((run_dir / "config.yaml").read_text())["stages"]
    records = read_records(run_dir)
    costs: dict[str, dict[str, float | str]] = {}
    for part in PARTS:
        own = [record for record in records if part_of(record, stages) == part]
        row: dict[str, float | str] = {"seconds": duration(own)}
        if all(record["kwh"] is not None for record in own):
            row["kwh"] = sum(record["kwh"] for record in own)
            row["grams"] = WORLD_AVERAGE * float(row["kwh"])
        for name in ("memory_mib", "gpu_memory_mib"):
            known = [record[name] for record in own if record[name] is not None]
            row |= {name: max(known)} if known else {}
        row |= {"devices": str(own[-1]["devices"])} if own else {}
        costs[part] = row
    return costs


def draw_figure(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw time, energy and peak memory of every system, training and inference apart."""
    on_gpu = any("gpu_memory_mib" in row for row in rows)
    memory = "gpu_memory_mib" if on_gpu else "memory_mib"
    panels = [
        ("time, minutes", "seconds", 1 / 60),
        (f"energy, Wh (1 kWh = {WORLD_AVERAGE:g} g CO2e)", "kwh", 1000.0),
        (f"peak memory, GiB ({'GPU' if on_gpu else 'process'})", memory, 1 / 1024),
    ]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 2.6))
    for axis, (title, column, scale) in zip(axes, panels, strict=True):
        for shift, (part, colour) in enumerate(PARTS.items()):
            values = [scale * _value(rows, system, part, column) for system in systems]
            places = [-number - 0.38 * shift for number in range(len(systems))]
            axis.barh(places, values, 0.36, color=colour, label=part)
            for place, value in zip(places, values, strict=True):
                axis.text(value, place, f" {value:.3g}", va="center", fontsize=8)
        axis.set_yticks([-number - 0.19 for number in range(len(systems))], systems)
        axis.set_title(title, fontsize=9)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _value(rows: Sequence[dict[str, Any]], system: str, part: str, column: str) -> float:
    return next((float(row.get(column, 0)) for row in rows if row["system"] == system and row["part"] == part), 0.0)


def main() -> None:
    """Run everything, write the CSV and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_set", default="miniature", help="Name that the configurations begin with.")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--images", default="aligned", help="Images a class.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/efficiency"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs/results/efficiency.csv")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/images/efficiency.png")
    parser.add_argument("further", nargs="*", help="After --: settings of all runs.")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for system in arguments.systems:
        config = f"configs/{arguments.data_set}{SYSTEMS[system]}.yaml"
        run_dir = arguments.runs.resolve() / arguments.data_set / Path(config).stem
        fit(config, run_dir, arguments.seed, f"--synthesize.images={arguments.images}", *arguments.further)
        images = sum(1 for _ in (run_dir / "synthetic/metadata.jsonl").open())
        for part, costs in read_costs(run_dir).items():
            rows.append({"system": system, "part": part, "images": images, **costs})
    if len({row["images"] for row in rows}) > 1:
        sys.exit(f"unequal numbers of images, {[row['images'] for row in rows[::2]]}: give --images N and other --runs")
    write_rows(arguments.csv, rows)
    draw_figure(rows, arguments.figure)
    print(json.dumps(rows, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
