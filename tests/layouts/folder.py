"""Writes class folders of tiny pictures, with or without split folders and bias labels."""

from collections.abc import Iterable
from pathlib import Path

from tests.generators import picture


def write_images(root: Path, names: Iterable[str], seed: int = 0) -> Path:
    """One picture of its own for each name, in the format that its ending asks for."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (20 + number % 5, 16 + number % 3), seed).save(path)
    return root


def write_folder(
    root: Path,
    *,
    per_group: int = 3,
    classes: Iterable[str] = ("cat", "dog"),
    biases: Iterable[str] = ("",),
    splits: Iterable[str] = ("train", "val", "test"),
    field: bool = False,
    seed: int = 0,
) -> Path:
    """`per_group` images in each root/<split>/<class>/<bias>/, or with the bias as last field of the image's name."""
    names = []
    for split in splits:
        for label in classes:
            for bias in biases:
                folder = "/".join(part for part in (split, label, "" if field else bias) if part)
                end = f"_{bias}" if field else ""
                names += [f"{folder}/{number:04d}{end}.jpg" for number in range(per_group)]
    return write_images(root, names, seed)
