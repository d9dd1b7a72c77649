"""The folders of ImageNet and ImageNet-A in small."""

from pathlib import Path

from datamodules.imagenet9 import SYNSETS
from tests.generators import picture

# a class of neither set
OTHER = "n01440764"
# the classes of ImageNet-A among the 42
ADVERSARIAL = ("n02099601", "n02123394", "n01641577", "n01669191", "n01820546", "n02486410", "n02655020", "n02219486")


def write_imagenet9(root: Path, *, per_group: int = 2, size: int = 12, seed: int = 0) -> Path:
    """Writes train, val and imagenet-a; train has `per_group` images a class, the others one."""
    everything = [wnid for wnids in SYNSETS.values() for wnid in wnids]
    number = 0
    for folder, wnids, suffix in (
        ("train", everything, "JPEG"),
        ("val", everything, "JPEG"),
        ("imagenet-a", ADVERSARIAL, "jpg"),
    ):
        for wnid in (*wnids, OTHER):
            (root / folder / wnid).mkdir(parents=True)
            for _ in range(per_group if folder == "train" else 1):
                picture(number, (size, size), seed).save(root / folder / wnid / f"{number}.{suffix}", format="JPEG")
                number += 1
    return root
