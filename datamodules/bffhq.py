"""BFFHQ: young or old faces, where the young are mostly women and the old mostly men."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.benchmark import Benchmark
from datamodules.biased_split import Percent
from datamodules.release import Release, find_release
from datamodules.samples import Samples, Split

CLASSES = ("young", "old")
GENDERS = ("woman", "man")


class BFFHQ(Benchmark):
    """BFFHQ (Lee et al., DisEnt, NeurIPS 2021): age is the class, gender the bias; young women and old men are aligned.

    The files linked from https://github.com/kakaoenterprise/Learning-Debiased-Disentangled, a folder or a zip::

        root/bffhq/{0.5pct,1pct,2pct,5pct}/{align,conflict}/<age>/<name>_<age>_<gender>.png
        root/bffhq/valid/<name>_<age>_<gender>.png
        root/bffhq/test/<name>_<age>_<gender>.png                     (or all without the folder bffhq)

    Age 0 is young, 1 old; gender 0 is woman, 1 man. Half of the 1,000 test images are in conflict. The reference code
    (DisEnt, BiasEnsemble) tests on those 500 alone: its figures are the metric `conflict` here, or `accuracy` with
    `test: conflict`.

    Args:
        root: The folder that holds the shares and test/ (or a folder `bffhq` with them), or a zip file of them.
        percent: Share of bias-conflict training images.
        test: Which test images are read: all, or those in conflict.
        **kwargs: Arguments of `Benchmark`; `cache` takes 2.9 GB at 224 pixels.
    """

    ORIGIN: ClassVar[str] = (
        "get BFFHQ, linked from https://github.com/kakaoenterprise/Learning-Debiased-Disentangled, and give its folder "
        "or zip"
    )

    def __init__(
        self,
        root: Path,
        *,
        percent: Percent = "0.5pct",
        test: Literal["all", "conflict"] = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.percent: Percent = percent
        self.test = test

    @property
    def class_names(self) -> tuple[str, ...]:
        """The two ages."""
        return CLASSES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """The two genders; women go with young, men with old."""
        return GENDERS

    @cached_property
    def _release(self) -> Release:
        release = find_release(self.root, "bffhq", self.percent, CLASSES)
        if release is None:
            raise self.unusable("has none of the folders 0.5pct, 1pct, 2pct, 5pct")
        return release

    def load(self, split: Split) -> Samples | None:
        """Lists one split; the pictures are decoded later."""
        samples = self._release.load(split)
        if samples is not None and split == "test" and self.test == "conflict":
            return samples.select(np.flatnonzero(samples.labels != samples.biases))
        return samples
