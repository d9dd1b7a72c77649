"""AmpliBias and A² beside DiffuBias and simpler ways: accuracy, KID and right labels over seeds.

    python -m benchmarks.gan_effect --seeds 401 402 403
    python -m benchmarks.gan_effect --data_set cmnist --methods ERM AmpliBias -- --data.root path/to/MNIST

One row a (method, seed). KID (Binkowski et al., arXiv 1801.01401) compares the synthetic images with test images in
conflict, in the features of a judge; *right* is the share of synthetic images that show the class of their label, by
that judge. It is the embedded one for the miniature; elsewhere it learns from one half of the unbiased test images, and
KID looks at the other half. The rows of real images say what these values are worth. The printed table has KID x 100
and shares in per cent, the CSV the values themselves. Finished runs are not run again, and rows of other methods and
seeds stay in the CSV. DDB-II takes the images of DDB-I, which has to be run before. What stands behind `--` goes to all
runs.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.drawn_quality import EmbeddedJudge, FittedJudge, Judge, kid, read_drawn, right_share
from benchmarks.miniature_effect import ROOT, fit
from benchmarks.over_seeds import put_row, tabulate
from datamodules import DebiasDataModule
from train import open_run

# what the name of the configuration ends with, and the stage that counts
CHAINS = {
    "ERM": ("_vanilla", "model"),
    "mined repeated (control)": ("_control", "debiased"),
    "DDB-I": ("_ddb_1", "debiased"),
    "DDB-II": ("_ddb_2", "debiased"),
    "DiffuBias": ("", "debiased"),
    "AmpliBias": ("_amplibias", "debiased"),
    "A²": ("_a2", "debiased"),
}
# DDB-II without a diffusion model of its own: it differs from DDB-I in the last stage alone
AMPLIFIED = """{amplifier: {module: biased, data: synthetic, synthesize: start},
 debiased: {module: model, uses: {amplifier: amplifier}}}"""
# pictures as they are
PLAIN = ["--data.mean=[0.0, 0.0, 0.0]", "--data.std=[1.0, 1.0, 1.0]"]
SCALES = {"accuracy": 100.0, "conflict": 100.0, "worst_group": 100.0, "kid": 100.0, "right": 100.0}


def pictures(data: DebiasDataModule, split: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, S, S] and labels [N] of a split's rows."""
    pixels = torch.cat([batch["image"] for batch in data.chosen_dataloader(split, rows.tolist())])
    return (255 * pixels).round().to(torch.uint8), data.split_labels(split)[0][rows]


def real(data: DebiasDataModule, embedded: bool) -> tuple[Judge, dict[str, tuple[Tensor, Tensor]]]:
    """A judge, and pictures and labels of aligned training images and of test images in conflict, in two parts."""
    labels, biases = data.split_labels("test")
    rows = torch.arange(len(labels))
    if embedded:
        judge: Judge = EmbeddedJudge(ROOT / "assets/miniature/judge")
    else:
        judge = FittedJudge(*pictures(data, "test", rows[::2]), data.num_classes)
        rows = rows[1::2]
    conflict = rows[labels[rows] != biases[rows]]
    train_labels, train_biases = data.split_labels("train")
    aligned = (train_labels == train_biases).nonzero().flatten()
    parts = {"conflict": ("test", conflict[::2]), "other conflict": ("test", conflict[1::2])}
    parts["aligned"] = ("train", aligned[:: -(-len(aligned) // 5000)])
    return judge, {name: pictures(data, *part) for name, part in parts.items()}


def main() -> None:
    """Run everything and write the CSV after every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_set", default="miniature", help="Name that the configurations begin with.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[401, 402, 403])
    parser.add_argument("--methods", nargs="+", choices=list(CHAINS), default=list(CHAINS))
    parser.add_argument("--runs", type=Path, default=Path("runs/gan"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, help="Default: docs/results/gan_effect_DATA_SET.csv")
    parser.add_argument("further", nargs="*", help="After --: settings of all runs.")
    arguments = parser.parse_args()
    csv = arguments.csv or ROOT / f"docs/results/gan_effect_{arguments.data_set}.csv"
    for seed in arguments.seeds:
        runs = arguments.runs.resolve() / arguments.data_set / str(seed)
        folders = {method: runs / method.split()[0] for method in arguments.methods}
        values: dict[str, dict[str, float]] = {}
        for method, folder in folders.items():
            suffix, stage = CHAINS[method]
            shared = [f"--synthesize.reuse={runs / 'DDB-I/synthetic'}", f"--stages={AMPLIFIED}"]
            own = shared if method == "DDB-II" else []
            config = f"configs/{arguments.data_set}{suffix}.yaml"
            reached = fit(config, folder, seed, *arguments.further, *own)[stage]
            values[method] = {name: reached[name] for name in ("accuracy", "conflict", "worst_group")}
        data = open_run(folders[arguments.methods[0]], PLAIN).data
        data.setup()
        judge, known = real(data, embedded=arguments.data_set == "miniature")
        drawn = {f"real images: {name}": known[name] for name in ("other conflict", "aligned")}
        for method, folder in folders.items():
            if (folder / "synthetic/metadata.jsonl").is_file():
                drawn[method] = read_drawn(folder / "synthetic", data.image_size)
        for name, (images, labels) in drawn.items():
            quality = {"kid": kid(judge, images, known["conflict"][0]), "right": right_share(judge, images, labels)}
            values[name] = values.get(name, {}) | quality
        for name, own_values in values.items():
            rows = put_row(csv, {"method": name, "seed": seed, **own_values}, ("method", "seed"))
        print(tabulate(rows, ("method",), SCALES), flush=True)


if __name__ == "__main__":
    main()
