"""ImageNet-9 and ImageNet-A: nine kinds of animals, tested on images that fool ordinary classifiers."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.benchmark import Benchmark
from datamodules.samples import Samples, Split

# the 42 classes of ImageNet (WordNet ids) in the nine classes of ReBias
SYNSETS: dict[str, tuple[str, ...]] = {
    "dog": ("n02085620", "n02099601", "n02106550", "n02106662", "n02110958"),
    "cat": ("n02123045", "n02123159", "n02123394", "n02123597", "n02124075"),
    "frog": ("n01641577", "n01644373", "n01644900"),
    "turtle": ("n01664065", "n01665541", "n01667114", "n01667778", "n01669191"),
    "bird": ("n01819313", "n01820546", "n01833805", "n01843383", "n01847000"),
    "monkey": ("n02486410", "n02487347", "n02488291", "n02488702", "n02492035"),
    "fish": ("n02607072", "n02640242", "n02641379", "n02643566", "n02655020"),
    "crab": ("n01978287", "n01978455", "n01980166", "n01981276"),
    "insect": ("n02174001", "n02177972", "n02190166", "n02206856", "n02219486"),
}


class ImageNet9(Benchmark):
    """The nine classes of ReBias (Bahng et al., ICML 2020, arXiv 1910.02806): 42 classes of ImageNet in nine animals.

    It is not the ImageNet-9 of the Backgrounds Challenge. ImageNet (ILSVRC 2012) from https://image-net.org with the
    validation images sorted into class folders, and ImageNet-A from https://github.com/hendrycks/natural-adv-examples::

        root/train/<wnid>/*.JPEG
        root/val/<wnid>/*.JPEG
        root/imagenet-a/<wnid>/*.jpg

    Folders of other classes may be there or not. Biases are not labelled. ImageNet-A has images of 21 of the 42
    classes, and of no crab. Where the test is on ImageNet-A, the images below val are the validation set, if there are
    any; otherwise a part of train is.

    Args:
        root: The folder of train, val and imagenet-a.
        test: Test on the images of ImageNet-A, or on the ordinary validation images of ImageNet.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = (
        "get ImageNet (ILSVRC 2012, val sorted into class folders) from https://image-net.org and ImageNet-A from "
        "https://github.com/hendrycks/natural-adv-examples"
    )

    def __init__(self, root: Path, *, test: Literal["imagenet_a", "val"] = "imagenet_a", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.test = test

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of animals."""
        return tuple(SYNSETS)

    def load(self, split: Split) -> Samples | None:
        """Lists one split; the pictures are decoded later."""
        if split == "train":
            return self._listed("train/")
        if split == "val":
            return self._listed("val/") if self.test == "imagenet_a" and self.container.has("val/") else None
        return self._listed("val/") if self.test == "val" else self._listed("imagenet-a/", all_needed=False)

    def _listed(self, folder: str, all_needed: bool = True) -> Samples:
        groups = {f"{folder}{wnid}/": (label, -1) for label, wnids in enumerate(SYNSETS.values()) for wnid in wnids}
        return self.group_samples(groups, all_needed=all_needed)
