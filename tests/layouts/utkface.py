"""UTKFace in small."""

from itertools import product
from pathlib import Path

from tests.generators import picture

# ages that are young, dropped, old, old and dropped
AGES = (1, 12, 20, 50, 70)


def write_utkface(
    root: Path, *, per_group: int = 10, suffix: str = ".jpg.chip.jpg", size: int = 12, seed: int = 0
) -> Path:
    """Writes UTKFace/<age>_<gender>_<race>_<date> below root: `per_group` faces of every age and gender."""
    folder = root / "UTKFace"
    folder.mkdir(parents=True)
    for age, gender, face in product(AGES, range(2), range(per_group)):
        date = 20170109150557000 + 1000 * age + 100 * gender + face
        name = f"{age}_{gender}_{face % 5}_{date}{suffix}"
        picture(1000 * age + 100 * gender + face, (size, size), seed).save(folder / name)
    return root
