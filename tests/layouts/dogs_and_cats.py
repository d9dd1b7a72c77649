"""Kaggle's Dogs vs. Cats with the lists of bright and dark animals, in small."""

import zipfile
from pathlib import Path

from tests.generators import picture

# as in the real lists, there are more dark cats and bright dogs
SHARES = {("cat", "dark"): 1.5, ("cat", "bright"): 1.0, ("dog", "dark"): 1.2, ("dog", "bright"): 1.7}


def animals(per_group: int) -> list[tuple[str, str]]:
    """Pairs (file name, dark or bright), the groups mixed."""
    found = []
    for (pet, colour), share in SHARES.items():
        found += [(f"{pet}.{100 * number + len(colour)}.jpg", colour) for number in range(round(per_group * share))]
    return sorted(found)


def write_kaggle(root: Path, *, per_group: int = 10, unlisted: int = 3, folder: str = "train", seed: int = 0) -> Path:
    """Images in root/train and the two lists in root; `unlisted` cats are in no list."""
    names = animals(per_group)
    others = [(f"cat.{9000 + number}.jpg", "") for number in range(unlisted)]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (name, _) in enumerate(names + others):
        picture(number, (9, 8), seed).save(root / folder / name)
    for colour in ("dark", "bright"):
        lines = [name for name, its in names if its == colour]
        (root / f"list_{colour}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_folders(root: Path, *, per_group: int = 10, suffix: str = ".png", seed: int = 0) -> Path:
    """Images in root/bright and root/dark; the pictures and the order are those of `write_kaggle`."""
    for number, (name, colour) in enumerate(animals(per_group)):
        (root / colour).mkdir(parents=True, exist_ok=True)
        picture(number, (9, 8), seed).save(root / colour / Path(name).with_suffix(suffix))
    return root


def write_zip(path: Path, folder: Path) -> Path:
    """All files below a folder as a zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path
