"""Epochs of LfF and DisEnt under Lightning with our data modules, against plain PyTorch loops of the same methods.

    python -m benchmarks.method_step
    python -m benchmarks.method_step --device cuda

Whole: pictures from files. The plain loop decodes one PNG a sample, augments and normalises it with torchvision, and
moves on, as the reference code does; our data module decodes once and keeps uint8 pictures in memory. Neither has
loader workers. Loading: the same without a training step, what remains of an epoch where the step is fast, as on a GPU.
Compute: the same batches, ready in memory, for both; the plain step keeps the losses of all samples and
looks for the maximum of each class as the reference code does.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measuring import RESULTS, Lap, Row, compare, in_turns, name_on, report, seconds
from benchmarks.pictures import write_pictures
from benchmarks.training_step import Ready, train_in_turns
from datamodules import Folder
from lightning_modules import Classifier, DisEnt, LfF

CLASSES = 10
PlainBatches = Iterable[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Setting:
    """A data set and a network."""

    name: str
    backbone: str
    size: int
    augment: bool
    images: int
    batch_size: int = 256

    def module(self, method: type[Classifier]) -> Classifier:
        """Build a module of a method, the same every time."""
        torch.manual_seed(0)
        # The optimizer is what the plain loop has.
        module = method(num_classes=CLASSES, backbone=self.backbone, lr=1e-3, **EXTRA[method])
        module.configure_model()
        return module


SETTINGS = (
    Setting("CMNIST, MLP, 28 px", "mlp", 28, False, 12_800),
    Setting("32 px, ResNet-18", "resnet18", 32, True, 1_024),
)
GPU_IMAGES = 12_800
# The permuted codes are part of the step from the first one on.
EXTRA: dict[type[Classifier], dict[str, Any]] = {LfF: {}, DisEnt: {"swap_from": -1}}


class PlainFiles(Dataset[tuple[Tensor, int, int]]):
    """One PNG decoded a sample."""

    def __init__(self, root: Path, setting: Setting) -> None:
        self.files = sorted((root / "train").rglob("*.png"))
        changes = [transforms.RandomCrop(setting.size, padding=4), transforms.RandomHorizontalFlip()]
        normalise = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.transform = transforms.Compose([*(changes if setting.augment else []), transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        picture = Image.open(self.files[index]).convert("RGB")
        return self.transform(picture), int(self.files[index].parent.name), index


class Losses:
    """Running averages of the loss of every sample, in the plain way."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.values = torch.zeros(len(labels), device=labels.device)
        self.known = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)

    def __call__(self, loss: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Take the losses of a batch; return them smoothed and divided by the greatest of the class."""
        smoothed = 0.7 * self.values[index] + 0.3 * loss
        self.values[index] = torch.where(self.known[index], smoothed, loss)
        self.known[index] = True
        out = self.values[index].clone()
        for number in range(CLASSES):
            out[label == number] /= self.values[self.labels == number].max()
        return out


def gce(logits: Tensor, label: Tensor) -> Tensor:
    """The reference code's generalised cross-entropy, q = 0.7."""
    p = logits.softmax(1).gather(1, label[:, None])[:, 0].detach()
    return functional.cross_entropy(logits, label, reduction="none") * 0.7 * p**0.7


def plain_lff(module: Any, labels: Tensor) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Return a plain training step of LfF."""
    biased, debiased = module.biased_network, module.network
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3) for network in (biased, debiased)]
    averages = Losses(labels), Losses(labels)

    def step(image: Tensor, label: Tensor, index: Tensor) -> None:
        logits_b, logits_d = biased(image), debiased(image)
        loss_b, loss_d = (functional.cross_entropy(x, label, reduction="none") for x in (logits_b, logits_d))
        b, d = averages[0](loss_b.detach(), index, label), averages[1](loss_d.detach(), index, label)
        loss = gce(logits_b, label).mean() + (b / (b + d + 1e-8) * loss_d).mean()
        _update(loss, optimizers)

    return step


def plain_disent(module: Any, labels: Tensor) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Return a plain training step of DisEnt, with permuted codes."""
    net = module.network
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3)]
    averages = Losses(labels), Losses(labels)

    def step(image: Tensor, label: Tensor, index: Tensor) -> None:
        code, code_b = net.encoder(image), net.biased_encoder(image)
        logits_d = net.head(torch.cat([code, code_b.detach()], 1))
        logits_b = net.biased_head(torch.cat([code.detach(), code_b], 1))
        loss_b, loss_d = (functional.cross_entropy(x, label, reduction="none") for x in (logits_b, logits_d))
        b, d = averages[0](loss_b.detach(), index, label), averages[1](loss_d.detach(), index, label)
        weight = b / (b + d + 1e-8)
        order = torch.randperm(len(label), device=label.device)
        swapped_d = net.head(torch.cat([code, code_b[order].detach()], 1))
        swapped_b = net.biased_head(torch.cat([code.detach(), code_b[order]], 1))
        swap = weight * functional.cross_entropy(swapped_d, label, reduction="none")
        loss = (weight * loss_d).mean() + gce(logits_b, label).mean()
        _update(loss + swap.mean() + gce(swapped_b, label[order]).mean(), optimizers)

    return step


def _update(loss: Tensor, optimizers: list[torch.optim.Adam]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()


PLAIN: dict[type[Classifier], Callable[[Any, Tensor], Callable[[Tensor, Tensor, Tensor], None]]] = {
    LfF: plain_lff,
    DisEnt: plain_disent,
}


def measure(
    method: type[Classifier], setting: Setting, data: Folder, plain: PlainBatches, labels: Tensor, ready: Ready | None,
    rounds: int, device: torch.device,
) -> tuple[list[Lap], list[Lap]]:  # fmt: skip
    """Train in turns; return the times of Lightning's epochs and of the plain ones."""
    module = setting.module(method).to(device)
    assert isinstance(module.network, nn.Module)
    step = PLAIN[method](module, labels.to(device))
    module.train()

    def epoch(_: int) -> None:
        for image, label, index in plain:
            step(image.to(device, memory_format=torch.channels_last), label.to(device), index.to(device))

    if ready is not None:
        data.train_dataloader = lambda: ready  # type: ignore[method-assign,assignment,return-value]
    return train_in_turns(setting.module(method), epoch, rounds, device.type, datamodule=data)


def rows_of(method: type[Classifier], setting: Setting, rounds: int, device: torch.device) -> list[Row]:
    """Measure a method in a setting."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        counts = {"train": setting.images if device.type == "cpu" else GPU_IMAGES, "val": CLASSES, "test": CLASSES}
        write_pictures(root, counts, CLASSES, (setting.size, setting.size), "png")

        def folder_data() -> Folder:
            augment = "crop_flip" if setting.augment else "none"
            data = Folder(root, image_size=setting.size, batch_size=setting.batch_size, augment=augment, cache=True)
            data.setup("fit")
            return data

        files = PlainFiles(root, setting)
        labels = torch.tensor([int(file.parent.name) for file in files.files])
        loader: Any = DataLoader(files, batch_size=setting.batch_size, shuffle=True)
        rows = []
        data = folder_data()
        ready = Ready(data.train_dataloader())
        ways = {"plain": lambda: [*loader], "ours": lambda: [*data.train_dataloader()]}
        laps = in_turns(ways, rounds)
        ratio, spread = compare(laps["ours"], laps["plain"])
        name = f"{method.__name__}, {setting.name}, loading"
        rows += [
            Row(f"{name}: torchvision", 1e3 * seconds(laps["plain"]) / len(ready), "ms a step"),
            Row(f"{name}: ours ({spread})", 1e3 * seconds(laps["ours"]) / len(ready), "ms a step", ratio, "<= 0.5"),
        ]
        plain_ready = [(batch["image"], batch["label"], batch["index"]) for batch in ready]
        for what, batches, own, target in (
            ("whole epoch", loader, None, "<= 0.5"),
            ("compute", plain_ready, ready, "<= 1.05"),
        ):
            entries = labels if own is None else data.train_labels()
            ours, plain = measure(method, setting, folder_data(), batches, entries, own, rounds, device)
            ratio, spread = compare(ours, plain)
            name = f"{method.__name__}, {setting.name}, {what}"
            steps = len(ready)
            rows += [
                Row(f"{name}: plain PyTorch", 1e3 * seconds(plain) / steps, "ms a step"),
                Row(f"{name}: Lightning ({spread})", 1e3 * seconds(ours) / steps, "ms a step", ratio, target),
            ]
    return rows


def main() -> None:
    """Measure both methods in both settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="Epochs of each.")
    parser.add_argument("--device", default="cpu", help="Where to compute; the result of a GPU has a file of its own.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    methods: tuple[type[Classifier], ...] = (LfF, DisEnt)
    device = torch.device(arguments.device)
    rows = [
        row for setting in SETTINGS for method in methods for row in rows_of(method, setting, arguments.rounds, device)
    ]
    report(name_on("method_step", device), rows, arguments.folder)


if __name__ == "__main__":
    main()
