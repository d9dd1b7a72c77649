"""What wrong captions cost on the miniature, and what a judge of the drawn images saves: mean and sd over seeds.

    python -m benchmarks.judge_effect --seeds 301 302 303

One row a (share of wrong captions, what is done about them, seed). What the CSV holds is not run again, so the command
goes on where it was stopped; another ``--csv`` begins anew.
"""

import argparse
import json
from itertools import product
from pathlib import Path

from benchmarks.miniature_effect import DIFFUBIAS, ROOT, fit
from benchmarks.over_seeds import Row, read_rows, tabulate, write_rows
from datamodules.miniature_world import SHAPES

JUDGE = ("--synthesize.gate.judge", "benchmarks.embedded_judge.EmbeddedJudge", "--synthesize.gate.mismatch")
GATES: dict[str, tuple[str, ...]] = {"none": (), **{mode: (*JUDGE, mode) for mode in ("drop", "redraw", "weigh")}}
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
    words = (*captioner(share), *GATES[gate], "--report.enabled", "false")
    reached = fit(DIFFUBIAS, folder, seed, *words)["debiased"]
    records = [json.loads(line) for line in (folder / "synthetic" / "metadata.jsonl").open()]
    right = sum(SHAPES[record["label"]] in record["caption"] for record in records)
    return {**reached, "images": float(len(records)), "right": right / len(records)}


def main() -> None:
    """Run what is missing, and write the CSV after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[301, 302, 303])
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="Shares of wrong captions.")
    parser.add_argument("--judge", nargs="+", choices=list(GATES), default=list(GATES), help="What is done about them.")
    parser.add_argument("--runs", type=Path, default=Path("runs/judge"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs/results/judge_effect.csv")
    arguments = parser.parse_args()
    rows = {_key(row): row for row in read_rows(arguments.csv)}
    for seed, share, gate in product(arguments.seeds, arguments.wrong, arguments.judge):
        if (share, gate, seed) in rows:
            continue
        values = measure(arguments.runs.resolve(), share, gate, seed)
        chosen = {column: values[column] for column in SCALES}
        rows[share, gate, seed] = {"wrong": share, "judge": gate, "seed": seed, **chosen}
        write_rows(arguments.csv, _in_order(rows))
    print(tabulate(_in_order(rows), ("wrong", "judge"), SCALES))


def _key(row: Row) -> tuple[float, str, int]:
    return float(row["wrong"]), str(row["judge"]), int(row["seed"])


def _in_order(rows: dict[tuple[float, str, int], Row]) -> list[Row]:
    """By share, then by what is done, from nothing on."""
    order = list(GATES)
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0], order.index(key[1]), key[2]))]


if __name__ == "__main__":
    main()
