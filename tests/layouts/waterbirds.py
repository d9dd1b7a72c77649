"""Waterbirds in small."""

import csv
from collections.abc import Mapping
from pathlib import Path

from tests.generators import picture

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
# images of the groups (y, place) of train; validation and test have one each
TRAIN = {(0, 0): 6, (0, 1): 1, (1, 0): 1, (1, 1): 4}


def write_waterbirds(
    root: Path, *, per_group: int = 1, train: Mapping[tuple[int, int], int] = TRAIN, size: int = 12, seed: int = 0
) -> Path:
    """Writes the folder of the archive below root; all numbers are multiplied by `per_group`."""
    folder = root / "waterbird_complete95_forest2water2"
    rows: list[tuple[object, ...]] = []
    for split in range(3):
        for (label, place), count in train.items():
            for _ in range(per_group * (count if split == 0 else 1)):
                number = len(rows)
                name = f"{number % 3:03d}.Some_Bird/Some_Bird_{number:04d}.jpg"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                picture(number, (size, size), seed).save(folder / name)
                rows.append((number + 1, name, label, split, place, "/o/ocean/00000001.jpg"))
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return root
