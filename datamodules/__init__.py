"""What is trained on: one data module for each benchmark, the user's own data, and the behaviour they share."""

from datamodules.bar import BAR
from datamodules.base import DebiasDataModule
from datamodules.bffhq import BFFHQ
from datamodules.celeba import CelebA
from datamodules.cmnist import CMNIST
from datamodules.corrupted_cifar10 import CorruptedCIFAR10
from datamodules.dataset import Batch
from datamodules.dogs_and_cats import DogsAndCats
from datamodules.folder import Folder
from datamodules.imagenet9 import ImageNet9
from datamodules.miniature import Miniature
from datamodules.samples import Entries, Samples
from datamodules.splits import SplitDataModule
from datamodules.spuco_animals import SpuCoAnimals
from datamodules.table import Table
from datamodules.urbancars import UrbanCars
from datamodules.utkface import UTKFace
from datamodules.waterbirds import Waterbirds

__all__ = [
    "BAR",
    "BFFHQ",
    "CMNIST",
    "Batch",
    "CelebA",
    "CorruptedCIFAR10",
    "DebiasDataModule",
    "DogsAndCats",
    "Entries",
    "Folder",
    "ImageNet9",
    "Miniature",
    "Samples",
    "SplitDataModule",
    "SpuCoAnimals",
    "Table",
    "UTKFace",
    "UrbanCars",
    "Waterbirds",
]
