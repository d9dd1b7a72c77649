"""AmpliBias and A² beside DiffuBias and simpler ways on the miniature: accuracy, KID and right labels over seeds.

    python -m benchmarks.gan_effect --seeds 401 402 403

One row a (method, seed). KID (Binkowski et al., arXiv 1801.01401) compares the synthetic images with the test
images in conflict, in the features of the embedded judge; *right* is the share of synthetic images that show the shape
of their label, by that judge. The rows of real images say what these values are worth. The printed table has KID x 100
and shares in per cent, the CSV the values themselves. Finished runs are not run again,
so the command goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from assets.judge import load_judge
from benchmarks.miniature_effect import CONTROL, DIFFUBIAS, ROOT, VANILLA, fit
from benchmarks.over_seeds import Row, tabulate, write_rows
from datamodules import Miniature

CHAINS = {
    "ERM": (VANILLA, "model"),
    "mined repeated (control)": (CONTROL, "debiased"),
    "DDB-I": ("configs/miniature_ddb_1.yaml", "debiased"),
    "DiffuBias": (DIFFUBIAS, "debiased"),
    "AmpliBias": ("configs/miniature_amplibias.yaml", "debiased"),
    "A²": ("configs/miniature_a2.yaml", "debiased"),
}
SCALES = {"accuracy": 100.0, "conflict": 100.0, "worst_group": 100.0, "kid": 100.0, "right": 100.0}
JUDGE = ROOT / "assets/miniature/judge"


class JudgeFeatures(nn.Module):
    """What the embedded judge sees in pictures: uint8 [B, 3, 32, 32] to float32 [B, 1536]."""

    def __init__(self) -> None:
        """Load the judge."""
        super().__init__()
        self.body = load_judge(JUDGE).body

    def forward(self, images: Tensor) -> Tensor:
        """Describe pictures."""
        features: Tensor = self.body(images.float() / 127.5 - 1)
        return features


def kid(images: Tensor, reference: Tensor) -> float:
    """Kernel distance of two sets of pictures uint8 [N, 3, 32, 32], mean over 50 subsets."""
    torch.manual_seed(0)
    size = min(100, len(images), len(reference))
    metric = KernelInceptionDistance(feature=JudgeFeatures(), subsets=50, subset_size=size)
    for pictures, real in ((reference, True), (images, False)):
        for chunk in torch.split(pictures, 256):
            metric.update(chunk, real=real)
    return float(metric.compute()[0])


@torch.inference_mode()
def right_share(images: Tensor, labels: Tensor) -> float:
    """Share of the pictures uint8 [N, 3, 32, 32] that show the shape of their label [N]."""
    judge = load_judge(JUDGE)
    shapes = torch.cat([judge(chunk.float() / 127.5 - 1)[0] for chunk in torch.split(images, 256)])
    return float((shapes.argmax(dim=1) == labels).float().mean())


def synthetic(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, 32, 32] and labels [N] of a synthetic set."""
    records = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
    pictures = [Image.open(folder / record["file_name"]).convert("RGB").resize((32, 32)) for record in records]
    pixels = torch.from_numpy(np.stack([np.asarray(own) for own in pictures])).permute(0, 3, 1, 2)
    return pixels, torch.tensor([record["label"] for record in records])


def real(seed: int, train_size: int = 1000) -> dict[str, tuple[Tensor, Tensor]]:
    """Pictures and labels of the test images in conflict, in two halves, and of the aligned training images."""
    data = Miniature(train_size=train_size, conflict_ratio=0.05, seed=seed, mean=(0.0,) * 3, std=(1.0,) * 3)
    data.setup()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for split in ("test", "train"):
        labels, biases = data.split_labels(split)
        wanted = (labels != biases) == (split == "test")
        rows = wanted.nonzero().flatten().tolist()
        parts = {"conflict": rows[::2], "other conflict": rows[1::2]} if split == "test" else {"aligned": rows}
        for name, own in parts.items():
            batches = list(data.chosen_dataloader(split, own))
            pixels = torch.cat([batch["image"] for batch in batches])
            found[name] = (255 * pixels).round().to(torch.uint8), labels[own]
    return found


def measure(runs: Path, method: str, seed: int, reference: Tensor) -> Row:
    """Run one chain, and look at what it has drawn and what it has reached."""
    config, stage = CHAINS[method]
    folder = runs / str(seed) / Path(config).stem
    reached = fit(config, folder, seed)[stage]
    row: dict[str, str | float] = {name: reached[name] for name in ("accuracy", "conflict", "worst_group")}
    if (folder / "synthetic/metadata.jsonl").is_file():
        images, labels = synthetic(folder / "synthetic")
        row |= {"kid": kid(images, reference), "right": right_share(images, labels)}
    return {"method": method, "seed": seed, **row}


def main() -> None:
    """Run everything and write the CSV after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[401, 402, 403])
    parser.add_argument("--methods", nargs="+", choices=list(CHAINS), default=list(CHAINS))
    parser.add_argument("--runs", type=Path, default=Path("runs/gan"), help="Folder of the runs.")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs/results/gan_effect.csv")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for seed in arguments.seeds:
        known = real(seed)
        for name in ("other conflict", "aligned"):
            images, labels = known[name]
            values = {"kid": kid(images, known["conflict"][0]), "right": right_share(images, labels)}
            rows.append({"method": f"real images: {name}", "seed": seed, **values})
        for method in arguments.methods:
            rows.append(measure(arguments.runs.resolve(), method, seed, known["conflict"][0]))
            write_rows(arguments.csv, rows)
            print(tabulate(rows, ("method",), SCALES), flush=True)


if __name__ == "__main__":
    main()
