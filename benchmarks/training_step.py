"""The training step of DebiasedModule under Lightning, as the chain runs it, against a plain PyTorch loop.

    python -m benchmarks.training_step

Same network, optimizer, batches and precision (configs/miniature.yaml: SmallResNet, 64 images of 32 pixels, float32).
Both read the batches from loaders of our data module, and once more from tensors that lie ready. A network this small
is the hardest case: what the framework adds to a step does not depend on the network.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring import RESULTS, Lap, Row, Watch, compare, report, seconds
from callbacks import StageCallback
from datamodules import Miniature
from lightning_modules import DebiasedModule

Batches = Iterable[dict[str, Tensor]]


class Ready:
    """Batches that lie in memory."""

    def __init__(self, batches: Batches) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)


class Turns(Callback):
    """Times every epoch of a fit, from its start to the start of the next, and runs a plain epoch between the two."""

    def __init__(self, plain_epoch: Callable[[int], None]) -> None:
        self.plain_epoch = plain_epoch
        self.lightning: list[Lap] = []
        self.plain: list[Lap] = []
        self._watch = Watch()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch, run a plain one, and begin the next."""
        lap = self._watch.lap()
        self.plain_epoch(trainer.current_epoch)
        if trainer.current_epoch > 0:
            self.lightning.append(lap)
            self.plain.append(self._watch.lap())
        else:
            self._watch.lap()


def make_module() -> DebiasedModule:
    """Build the module of configs/miniature.yaml."""
    torch.manual_seed(0)
    module = DebiasedModule(num_classes=8, backbone="smallresnet", lr=1e-3, optimizer=torch.optim.AdamW)
    module.configure_model()
    return module


def plain_loop(loader: Batches) -> Callable[[int], None]:
    """Return a function that trains the same network for one epoch with nothing but PyTorch."""
    network: Any = make_module().network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def epoch(number: int) -> None:
        if isinstance(sampler := getattr(loader, "sampler", None), torch.utils.data.Sampler):
            sampler.set_epoch(number)  # type: ignore[attr-defined]
        network.train()
        for batch in loader:
            optimizer.zero_grad()
            logits = network(batch["image"].to(memory_format=torch.channels_last))
            loss: Any = functional.cross_entropy(logits, batch["label"])
            loss.backward()
            optimizer.step()

    return epoch


def train_in_turns(
    module: LightningModule, plain_epoch: Callable[[int], None], rounds: int, accelerator: str = "cpu", **source: Any
) -> tuple[list[Lap], list[Lap]]:
    """Train a module under Lightning, with a plain epoch after each of its own.

    Args:
        module: What is trained, as the chain does it.
        plain_epoch: Trains for one epoch, given its number, with nothing but PyTorch.
        rounds: Epochs of each.
        accelerator: Lightning's name of the device.
        **source: For ``Trainer.fit``: the data.

    Returns:
        Times of Lightning's epochs and of the plain ones.
    """
    turns = Turns(plain_epoch)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=accelerator, devices=1, precision="32-true", max_epochs=rounds + 2, log_every_n_steps=20,
            callbacks=[turns, StageCallback(Path(folder), seed=1)], logger=CSVLogger(folder), limit_val_batches=0,
            num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, **source)
    return turns.lightning[1:], turns.plain[1:]  # the first of each is not counted


def measure(data: Miniature, batches: Batches | None, rounds: int) -> tuple[list[Lap], list[Lap]]:
    """Train in turns.

    Args:
        data: The data module, read by both where no batches are given.
        batches: Ready batches.
        rounds: Epochs of each.

    Returns:
        Times of Lightning's epochs and of the plain ones.
    """
    plain_epoch = plain_loop(data.train_dataloader() if batches is None else batches)
    source = {"datamodule": data} if batches is None else {"train_dataloaders": batches}
    return train_in_turns(make_module(), plain_epoch, rounds, **source)


def main() -> None:
    """Measure with both sources of batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="Epochs of each.")
    parser.add_argument("--images", type=int, default=4000, help="Images an epoch.")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="Folder of the CSV.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = Miniature(train_size=arguments.images, seed=1)
    data.setup("fit")
    ready = Ready(data.train_dataloader())
    rows = []
    for source, batches in (("our data module", None), ("ready tensors", ready)):
        lightning, plain = measure(data, batches, arguments.rounds + 1)
        ratio, spread = compare(lightning, plain)
        rows += [
            Row(f"plain PyTorch loop, {source}", 1e3 * seconds(plain) / len(ready), "ms a step"),
            Row(
                f"Lightning, {source} ({spread})", 1e3 * seconds(lightning) / len(ready), "ms a step", ratio, "<= 1.05"
            ),
        ]
    report("training_step", rows, arguments.folder)


if __name__ == "__main__":
    main()
