"""SpuCo Animals in small."""

from pathlib import Path

from tests.generators import picture

FOLDERS = {
    "spuco_birds": (("landbirds", "land"), ("landbirds", "water"), ("waterbirds", "water"), ("waterbirds", "land")),
    "spuco_dogs": (
        ("small_dogs", "indoor"),
        ("small_dogs", "outdoor"),
        ("big_dogs", "outdoor"),
        ("big_dogs", "indoor"),
    ),
}


def write_spuco_animals(root: Path, *, per_group: int = 2, aligned: int = 4, size: int = 12, seed: int = 0) -> Path:
    """Writes spuco_birds and spuco_dogs; every split has aligned * per_group images of an aligned group."""
    number = 0
    for part, groups in FOLDERS.items():
        for split in ("train", "val", "test"):
            for order, (animal, place) in enumerate(groups):
                folder = root / part / split / animal / place
                folder.mkdir(parents=True)
                for _ in range(per_group * (aligned if order % 2 == 0 else 1)):
                    picture(number, (size, size), seed).save(folder / f"{number}.jpg")
                    number += 1
    return root
