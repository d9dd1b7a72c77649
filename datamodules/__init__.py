"""What is trained on: one data module for each benchmark, and the behaviour they share."""

from datamodules.bar import BAR
from datamodules.base import DebiasDataModule, Entries, Samples
from datamodules.cmnist import CMNIST
from datamodules.dataset import Batch
from datamodules.miniature import Miniature

__all__ = ["BAR", "CMNIST", "Batch", "DebiasDataModule", "Entries", "Miniature", "Samples"]
