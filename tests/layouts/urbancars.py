"""UrbanCars in small, with the mask files that its scripts leave beside the images."""

from itertools import product
from pathlib import Path

from tests.generators import picture

KINDS = ("urban", "country")


def write_urbancars(root: Path, *, per_group: int = 1, size: int = 12, seed: int = 0) -> Path:
    """Writes the three splits below root; in train a group has per_group * 2 ** (number of aligned biases) images."""
    number = 0
    for split in ("train", "val", "test"):
        ratio = 0.95 if split == "train" else 0.5
        for car, background, thing in product(KINDS, repeat=3):
            folder = (
                root / f"bg-{ratio}_co_occur_obj-{ratio}" / split / f"obj-{car}_bg-{background}_co_occur_obj-{thing}"
            )
            folder.mkdir(parents=True)
            factor = 2 ** ((car == background) + (car == thing)) if split == "train" else 1
            for _ in range(per_group * factor):
                picture(number, (size, size), seed).save(folder / f"{number:03d}.jpg")
                for mask in ("mask", "co_occur_obj_mask"):
                    picture(number, (size, size), seed + 1).save(folder / f"{number:03d}_{mask}.png")
                number += 1
    return root
