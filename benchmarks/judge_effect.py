"""What wrong captions cost on the miniature, and what a judge of the drawn images saves: mean and sd over seeds.

    python -m benchmarks.judge_effect --seeds 301 302 303

One row a (share of wrong captions, with or without judge, seed). Finished runs are not run again, so the command goes
on where it was stopped.
"""

import argparse
import json
from pathlib import Path

from benchmarks.miniature_effect import DIFFUBIAS, ROOT, fit
from benchmarks.over_seeds import tabulate, write_rows
from datamodules.miniature_world import SHAPES

GATES = {
    "none": (),
    "drop": ("--synthesize.gate.judge", "benchmarks.embedded_judge.EmbeddedJudge"),
}
SCALES = {"accuracy": 100.0, "conflict": 100.0, "worst_group": 100.0, "images": 1.0, "right": 100.0}


def captioner(share: float) -> tuple[str, ...]:
    """Flags of the captioner of the miniature that is wrong in a share of its captions."""
    key = "--synthesize.captioner"
    settings = {"share": share, "model": "assets/miniature/captioner", "batch_size": 64, "max_new_tokens": 16}
    flags = [word for name, value in settings.items() for word in (f"{key}.{name}", str(value))]
    return (key, "benchmarks.wrong_captions.WrongCaptions", *flags)


def measure(runs: Path, share: float, gate: str, seed: int) -> dict[str, float]:
    """Run one chain, and look at what it has learnt from and what it has reached."""
    folder = runs / f"{share:g}" / gate / f"seed-{seed}"
    reached = fit(DIFFUBIAS, folder, seed, *captioner(share), *GATES[gate])["debiased"]
    records = [json.loads(line) for line in (folder / "synthetic" / "metadata.jsonl").open()]
    right = sum(SHAPES[record["label"]] in record["caption"] for record in records)
    return {**reached, "images": float(len(records)), "right": right / len(records)}


def main() -> None:
    """Run everything and write the CSV after every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[301, 302, 303])
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="Shares of wrong captions.")
    parser.add_argument("--runs", type=Path, default=Path("runs/judge"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs/results/judge_effect.csv")
    arguments = parser.parse_args()
    rows: list[dict[str, str | float]] = []
    for seed in arguments.seeds:
        for share in arguments.wrong:
            for gate in GATES:
                values = measure(arguments.runs.resolve(), share, gate, seed)
                chosen = {column: values[column] for column in SCALES}
                rows.append({"wrong": share, "judge": gate, "seed": seed, **chosen})
        write_rows(arguments.csv, rows)
        print(tabulate(rows, ("wrong", "judge"), SCALES), flush=True)


if __name__ == "__main__":
    main()
