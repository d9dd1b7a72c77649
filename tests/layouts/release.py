"""The align/conflict release of DisEnt and BiasEnsemble, in small."""

from collections.abc import Sequence
from pathlib import Path

from tests.generators import picture

PERCENTS = ("0.5pct", "1pct", "2pct", "5pct")


def write_release(
    root: Path,
    *,
    classes: int = 2,
    per_group: int = 2,
    percents: Sequence[str] = PERCENTS,
    conflict_name: str = "conflict",
    valid: str = "{percent}/valid",
    valid_in_classes: bool = False,
    test_in_classes: bool = True,
    size: int = 12,
    seed: int = 0,
) -> Path:
    """Writes the shares and test/ below root.

    The share number p has 4 * per_group aligned and p + 1 conflict images a class; valid has one image, and test
    `per_group` images, of every pair of class and bias. `valid` is the folder, "" for none.
    """
    number = 0

    def save(folder: str, label: int, bias: int, count: int, in_class: bool = True) -> None:
        nonlocal number
        path = root / folder / (str(label) if in_class else "")
        path.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            picture(number, (size, size), seed).save(path / f"{number}_{label}_{bias}.png")
            number += 1

    for label in range(classes):
        for order, percent in enumerate(percents):
            save(f"{percent}/align", label, label, 4 * per_group)
            for step in range(order + 1):
                save(f"{percent}/{conflict_name}", label, (label + 1 + step % (classes - 1)) % classes, 1)
        for bias in range(classes):
            save("test", label, bias, per_group, test_in_classes)
            for folder in sorted({valid.format(percent=percent) for percent in percents if valid}):
                save(folder, label, bias, 1, valid_in_classes)
    return root
