"""How well an error set finds the training images in conflict: DDB's amplifier beside classifiers of the real images.

    python -m benchmarks.error_sets --seeds 401 402 403
    python -m benchmarks.error_sets --data_set cmnist --seeds 1 2 3 -- --data.root path/to/MNIST

The claim of Diffusing DeBias (arXiv 2502.09564): what learns from synthetic images alone never saw those in conflict
and cannot learn them by heart. The others learn from the real ones with generalised cross-entropy, as long as --epochs
says. One row a (classifier, seed), the printed table has shares in per cent. Finished runs are not run again, so the
runs of `benchmarks.gan_effect` serve for the amplifier; rows of other seeds stay in the CSV. What stands behind `--`
goes to all runs.
"""

import argparse
import csv
from pathlib import Path

from benchmarks.miniature_effect import ROOT, fit
from benchmarks.over_seeds import put_row, tabulate

SCALES = {"errors": 1.0, "precision": 100.0, "recall": 100.0, "auroc": 100.0}


def read_errors(run_dir: Path) -> dict[str, float]:
    """What the last stage of a chain has logged about its error set."""
    files = sorted(run_dir.glob("stages/*-debiased/logs/*/metrics.csv"))
    lines = [line for file in files for line in csv.DictReader(file.open()) if line.get("errors/count")]
    names = {"errors": "count", **{name: name for name in ("precision", "recall", "auroc")}}
    return {name: float(lines[0][f"errors/{key}"]) for name, key in names.items()}


def main() -> None:
    """Run everything and write the CSV after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_set", default="miniature", help="Name that the configurations begin with.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[401, 402, 403])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 20, 100])
    parser.add_argument("--runs", type=Path, default=Path("runs/gan"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, help="Default: docs/results/error_sets_DATA_SET.csv")
    parser.add_argument("further", nargs="*", help="After --: settings of all runs.")
    arguments = parser.parse_args()
    config = f"configs/{arguments.data_set}_ddb_1.yaml"
    table = arguments.csv or ROOT / f"docs/results/error_sets_{arguments.data_set}.csv"
    for seed in arguments.seeds:
        runs = arguments.runs.resolve() / arguments.data_set / str(seed)
        chains: dict[str, tuple[Path, list[str]]] = {"DDB's amplifier": (runs / "DDB-I", [])}
        for epochs in arguments.epochs:
            stages = f"{{amplifier: {{module: biased, data: real, max_epochs: {epochs}}}, debiased: {{module: model, "
            stages += "uses: {amplifier: amplifier}, max_epochs: 1}}"
            own = ["--biased=lightning_modules.BiasedModule", f"--stages={stages}"]
            chains[f"GCE, epochs: {epochs}"] = runs / f"gce-{epochs}", own
        for name, (folder, own) in chains.items():
            fit(config, folder, seed, *arguments.further, *own)
            row = {"classifier": name, "seed": seed, **read_errors(folder)}
            rows = put_row(table, row, ("classifier", "seed"))
        print(tabulate(rows, ("classifier",), SCALES), flush=True)


if __name__ == "__main__":
    main()
