"""A tiny data module: the class shows in the brightness of a patch, the bias in the colour of the ground."""

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_modules import Classifier
from tests.fitting import make_trainer

SIZE = 16
MLP: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [8], "image_size": 16, "divide_by_255": False},
}
CLI_FLAGS = [
    "--model.lr=0.02",
    "--model.optimizer",
    "AdamW",
    "--model.optimizer.weight_decay",
    "1e-2",
    "--model.scheduler",
    "CosineAnnealingLR",
    "--model.scheduler.T_max",
    "10",
    "--trainer.logger=false",
]


def make_sample(index: int, classes: int, conflict_every: int, known: bool) -> dict[str, Tensor]:
    """Sample number index: image [3, 16, 16] and its numbers."""
    label = index % classes
    bias = (label + 1) % classes if index % conflict_every == 0 else label
    image = 0.1 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))
    image[bias] += 1.0
    image[:, 4:12, 4:12] = label - 1.0
    return {
        "image": image,
        "label": torch.tensor(label),
        "bias": torch.tensor(bias if known else -1),
        "index": torch.tensor(index),
        "synthetic": torch.tensor(index % 5 == 0),
    }


class ToySet(Dataset[dict[str, Tensor]]):
    def __init__(self, count: int, conflict_every: int, known: bool, broken: bool) -> None:
        self.samples = [make_sample(i, 3, conflict_every, known) for i in range(count)]
        if broken:
            self.samples[-1]["image"] *= float("nan")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.samples[index]


class ToyData(L.LightningDataModule):
    num_classes = 3
    bias_names = ("red", "green", "blue")

    def __init__(self, train: int = 96, test: int = 37, known: bool = True, broken: bool = False) -> None:
        super().__init__()
        self.train = ToySet(train, 10, known, broken)
        self.test = ToySet(test, 2, known, False)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.test, batch_size=8)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.test, batch_size=8)

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.test, batch_size=8)


def fitted(folder: Path, model: Classifier, epochs: int = 1, **options: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    trainer = make_trainer(folder, epochs, **options)
    trainer.fit(model, datamodule=ToyData())
    return trainer
