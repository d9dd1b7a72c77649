"""CelebA and CelebA-HQ in small."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.generators import picture

ATTRIBUTES = ("5_o_Clock_Shadow", "Black_Hair", "Blond_Hair", "Male", "Smiling", "Young")
# faces of the groups (Blond_Hair, Male): as in the full set, most of the non-blond are women
GROUPS = {(0, 0): 5, (0, 1): 4, (1, 0): 3, (1, 1): 1}


def _line(name: str, values: Mapping[str, int]) -> str:
    return f"{name}  " + " ".join(" 1" if values.get(attribute) else "-1" for attribute in ATTRIBUTES)


def _write_table(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([str(len(lines)), " ".join(ATTRIBUTES) + " ", *lines]) + "\n")


def write_celeba(
    root: Path,
    *,
    per_group: int = 1,
    groups: Mapping[tuple[int, int], int] = GROUPS,
    zipped: bool = False,
    size: int = 12,
    seed: int = 0,
) -> Path:
    """Writes root/celeba; each of the three splits has per_group * groups[blond, male] faces."""
    home = root / "celeba"
    images = home / "img_align_celeba"
    images.mkdir(parents=True)
    lines: list[str] = []
    partition: list[str] = []
    for split in range(3):
        for (blond, male), count in groups.items():
            for _ in range(per_group * count):
                name = f"{len(lines) + 1:06d}.jpg"
                picture(len(lines), (size, size + 2), seed).save(images / name)
                smiling = male == blond  # non-blond women and blond men
                lines.append(_line(name, {"Blond_Hair": blond, "Male": male, "Smiling": smiling, "Young": 1}))
                partition.append(f"{name} {split}")
    _write_table(home / "list_attr_celeba.txt", lines)
    (home / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    if zipped:
        with zipfile.ZipFile(home / "img_align_celeba.zip", "w") as archive:
            for file in sorted(images.iterdir()):
                archive.write(file, f"img_align_celeba/{file.name}")
                file.unlink()
        images.rmdir()
    return root


def write_celeba_hq(root: Path, *, per_group: int = 10, size: int = 12, seed: int = 0) -> Path:
    """Writes root/CelebAMask-HQ with 4 * per_group faces: in turn three smiling women and one non-smiling man."""
    home = root / "CelebAMask-HQ"
    (home / "CelebA-HQ-img").mkdir(parents=True)
    lines: list[str] = []
    for number in range(4 * per_group):
        picture(number, (size, size), seed).save(home / "CelebA-HQ-img" / f"{number}.jpg")
        man = int(number % 4 == 3)
        lines.append(_line(f"{number}.jpg", {"Male": man, "Smiling": 1 - man}))
    _write_table(home / "CelebAMask-HQ-attribute-anno.txt", lines)
    return root
