"""Images a second that the data modules give, against what classifiers take in training.

    python -m benchmarks.loaders

Every loader is that of `Folder` on pictures written for it, in one process: each worker adds as much again. `memory`
keeps decoded uint8 pictures, `stream` decodes at every visit. A classifier's need is its own training step on this
machine; a loader starves it where it gives fewer images a second, all its workers together.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.measuring import RESULTS, Row, in_turns, report, seconds
from benchmarks.pictures import write_pictures
from datamodules import Folder
from lightning_modules import build_backbone


@dataclass(frozen=True)
class Store:
    """Pictures as they lie on the disk, and the input that is made of them."""

    sets: str
    width: int
    height: int
    suffix: str
    size: int
    cache: bool
    images: int


STORES = (
    Store("CMNIST", 28, 28, "png", 28, True, 10_240),
    Store("Corrupted CIFAR-10", 32, 32, "png", 32, True, 10_240),
    Store("Corrupted CIFAR-10 release", 32, 32, "png", 32, False, 2_048),
    Store("BFFHQ", 128, 128, "png", 224, False, 512),
    Store("CelebA", 178, 218, "jpg", 224, False, 512),
    Store("Waterbirds, UrbanCars, own photographs", 400, 300, "jpg", 224, False, 512),
    Store("BAR, Dogs & Cats", 400, 300, "jpg", 224, True, 512),
)
# backbone, input side, batch
CLASSIFIERS = (("mlp", 28, 256), ("resnet18", 32, 256), ("resnet18", 224, 16), ("resnet50", 224, 16))


def loader_row(store: Store, rounds: int) -> Row:
    """Measure one loader."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": store.images, "val": 2, "test": 2}
        write_pictures(Path(folder), counts, 2, (store.width, store.height), store.suffix)
        batch_size = 256 if store.size <= 32 else 64
        data = Folder(Path(folder), image_size=store.size, batch_size=batch_size, cache=store.cache, broken="unchecked")
        data.setup("fit")
        loader = data.train_dataloader()
        laps = in_turns({"epoch": lambda: sum(len(batch["label"]) for batch in loader)}, rounds)["epoch"]
    kind = "memory" if store.cache else "stream"
    what = f"{store.sets}: {store.width} x {store.height} {store.suffix} to {store.size} px, {kind}"
    return Row(what, store.images / seconds(laps), "images/s")


def training_step(backbone: str, size: int, batch_size: int) -> Callable[[], None]:
    """Return a training step of a classifier."""
    network = build_backbone(backbone, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(image), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    """Measure all loaders and classifiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Epochs of each loader, steps of each classifier.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    rows = [loader_row(store, arguments.rounds) for store in STORES]
    for backbone, size, batch_size in CLASSIFIERS:
        laps = in_turns({"step": training_step(backbone, size, batch_size)}, arguments.rounds)["step"]
        rows.append(Row(f"training step of {backbone}, {size} px", batch_size / seconds(laps), "images/s"))
    report("loaders", rows, arguments.folder)


if __name__ == "__main__":
    main()
