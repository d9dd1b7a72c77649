"""What every part of DiffuBias is worth on the miniature: mean and sd over fresh seeds, as CSV and Markdown.

    python -m benchmarks.miniature_effect --seeds 101 102 103 --ratios 0.05 0.02

One row a (conflict ratio, seed, method). Finished runs are not run again, so the command goes on where it was stopped.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from assets.judge import faithfulness as judged
from assets.judge import load_judge
from benchmarks.over_seeds import tabulate, write_rows

ROOT = Path(__file__).parent.parent
DIFFUBIAS = "configs/miniature.yaml"
VANILLA = "configs/miniature_vanilla.yaml"
CONTROL = "configs/miniature_control.yaml"
PLUS = "configs/miniature_plus_mined.yaml"
COLUMNS = ("accuracy", "aligned", "conflict", "worst_group", "precision", "faithful")


def fit(config: str, run_dir: Path, seed: int, *overrides: str) -> dict[str, dict[str, float]]:
    """Run one chain in a process of its own, unless it is finished, and read its test results."""
    finished = run_dir / "results.json"
    command = [sys.executable, "train.py", "fit", "--config", config, "--run_dir", str(run_dir)]
    command += ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.enable_progress_bar", "false"]
    if not finished.exists():
        subprocess.run([*command, *overrides], cwd=ROOT, check=True)
    results: dict[str, dict[str, float]] = json.loads(finished.read_text())["test"]
    return results


def mining_precision(synthetic: Path) -> float:
    """Share of the mined images that are in conflict."""
    items: list[dict[str, int]] = json.loads((synthetic / "selection.json").read_text())["items"]
    return sum(item["bias"] != item["label"] for item in items) / len(items)


def faithfulness(synthetic: Path) -> float:
    """Share of the synthetic images whose shape is their label, by the judge classifier."""
    judge = load_judge(ROOT / "assets/miniature/judge")
    records = [json.loads(line) for line in (synthetic / "metadata.jsonl").open()]
    images = np.stack([np.asarray(Image.open(synthetic / record["file_name"])) for record in records])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    # background and colour may be anything: only the shape is the class
    wanted = torch.tensor([[record["label"], -1, -1] for record in records])
    return judged(judge, pixels, wanted)["shape"]


def measure(runs: Path, ratio: float, seed: int) -> dict[str, dict[str, float]]:
    """Run all methods at one conflict ratio with one seed; the method's name to its row."""
    folder = runs / f"{ratio:g}" / str(seed)
    conflict = f"--data.conflict_ratio={ratio}"
    chain = fit(DIFFUBIAS, folder / "diffubias", seed, conflict)
    synthetic = folder / "diffubias" / "synthetic"
    quality = {"precision": mining_precision(synthetic), "faithful": faithfulness(synthetic)}
    reuse = f"--synthesize.reuse={synthetic}"  # the same images, so that only the repeats differ
    return {
        "biased model": chain["biased"],
        "ERM": fit(VANILLA, folder / "erm", seed, conflict)["model"],
        "mined repeated (control)": fit(CONTROL, folder / "control", seed, conflict)["debiased"],
        "DiffuBias": chain["debiased"] | quality,
        "DiffuBias + mined repeated (ours)": fit(PLUS, folder / "plus", seed, conflict, reuse)["debiased"],
        "oracle (balanced data)": fit(VANILLA, folder / "oracle", seed, "--data.conflict_ratio=0.875")["model"],
    }


def main() -> None:
    """Run everything and write the CSV after every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--runs", type=Path, default=Path("runs/effect"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs/results/miniature_effect.csv")
    arguments = parser.parse_args()
    rows: list[dict[str, str | float]] = []
    for seed in arguments.seeds:
        for ratio in arguments.ratios:
            for method, values in measure(arguments.runs.resolve(), ratio, seed).items():
                known = {column: values[column] for column in COLUMNS if column in values}
                rows.append({"ratio": ratio, "seed": seed, "method": method, **known})
            write_rows(arguments.csv, rows)
            print(tabulate(rows, ("ratio", "method"), dict.fromkeys(COLUMNS, 100.0)), flush=True)


if __name__ == "__main__":
    main()
