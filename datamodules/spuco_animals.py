"""SpuCo Animals: birds on land and water, dogs indoors and outdoors."""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.benchmark import Benchmark, Group, compare_counts
from datamodules.bias_ratio import check_bias_ratio, thin_conflicts
from datamodules.samples import Samples, Split

# folders of the classes, and of the places in them, in the order of the numbers
CLASS_FOLDERS = (
    ("spuco_birds", "landbirds"),
    ("spuco_birds", "waterbirds"),
    ("spuco_dogs", "small_dogs"),
    ("spuco_dogs", "big_dogs"),
)
PLACES = ("land", "water", "indoor", "outdoor")
GROUPS: tuple[Group, ...] = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3))
# images of a group whose place goes with the class, and of one whose place does not
COUNTS: dict[Split, tuple[int, int]] = {"train": (10_000, 500), "val": (500, 25), "test": (500, 500)}
NATURAL_RATIO = 0.95


class SpuCoAnimals(Benchmark):
    """SpuCo Animals (Joshi et al., Towards Mitigating Spurious Correlations in the Wild, arXiv 2306.11957).

    The archives spuco_birds and spuco_dogs of https://github.com/BigML-CS-UCLA/SpuCo, unpacked::

        root/spuco_birds/{train,val,test}/{landbirds,waterbirds}/{land,water}/<name>.jpg
        root/spuco_dogs/{train,val,test}/{small_dogs,big_dogs}/{indoor,outdoor}/<name>.jpg

    Classes are landbird, waterbird, small dog, big dog, and they go with land, water, indoors, outdoors; birds are
    never indoors or outdoors and dogs never on land or water, so that 8 of the 16 groups exist. A class has 10,000
    aligned and 500 conflict training images, 500 and 25 for validation, 500 and 500 for the test.

    Args:
        root: The folder of spuco_birds and spuco_dogs.
        bias_ratio: Share of aligned images in each class of the training and validation set, from 0.95 on; conflict
            images are left out as in From Fake to Real, which has 0.95, 0.97, 0.99 and 0.999. None takes all.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = (
        "get spuco_birds and spuco_dogs of SpuCo from https://github.com/BigML-CS-UCLA/SpuCo and unpack them"
    )

    def __init__(self, root: Path, *, bias_ratio: float | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        check_bias_ratio(bias_ratio, NATURAL_RATIO)
        self.bias_ratio = bias_ratio

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of animals."""
        return ("landbird", "waterbird", "small dog", "big dog")

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Kinds of places; place i goes with animal i."""
        return ("land", "water", "indoors", "outdoors")

    def load(self, split: Split) -> Samples:
        """Lists one split; the pictures are decoded later."""
        folders = {self._folder(split, label, bias): (label, bias) for label, bias in GROUPS}
        samples = self.group_samples(folders)
        aligned, conflict = COUNTS[split]
        official = {(label, bias): aligned if label == bias else conflict for label, bias in GROUPS}
        compare_counts(f"the {split} split of SpuCo Animals", samples.labels, samples.biases, official)
        return thin_conflicts(samples, self.bias_ratio, split, self.seed)

    @staticmethod
    def _folder(split: Split, label: int, bias: int) -> str:
        part, animal = CLASS_FOLDERS[label]
        return f"{part}/{split}/{animal}/{PLACES[bias]}/"
