"""Biased Action Recognition (BAR): six actions, each photographed in one typical place."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.benchmark import Benchmark
from datamodules.images import ImageFiles
from datamodules.release import CONFLICT, join, named_samples
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError

CLASSES = ("climbing", "diving", "fishing", "pole vaulting", "racing", "throwing")
PLACES = ("rock wall", "under water", "water surface", "sky", "paved track", "playing field")
RESPLIT = "the BAR re-split linked from https://github.com/kakaoenterprise/BiasEnsemble"
# folders that a download may have around train/ and test/
PREFIXES = ("", "bar/", "BAR/", "BAR-master/")


class BAR(Benchmark):
    """BAR (Nam et al., Learning from Failure, NeurIPS 2020) in either of its two layouts, found out from the folders.

    The official release, a folder or a zip, has no bias labels and no validation split (one is carved out of train)::

        root/train/<class>_<number>.jpg
        root/test/<class>_<number>.jpg

    The re-split of BiasEnsemble (Lee et al., AAAI 2023) has both; DiffuBias' figures are on this one, and cannot be
    compared with those of the other::

        root/train/align/<class>/<name>_<label>_<bias>.jpg
        root/train/conflict/{1pct,5pct}/<class>/<name>_<label>_<bias>.jpg     ("conlict" is read too)
        root/valid/<class>/<name>_<label>_<bias>.jpg
        root/test/<class>/<name>_<label>_<bias>.jpg

    As in the reference code, an image below `align` has its label as bias and one below `conflict` has
    (label + 1) mod 6; the others have the bias of their name.

    Args:
        root: The folder that holds train/ and test/ (or a folder `bar` with them), or a zip file of them.
        percent: Share of bias-conflict training images, for the re-split.
        cache: Keep decoded pictures in memory: at 224 pixels about 400 MB for the whole set.
        **kwargs: Arguments of `Benchmark`.
    """

    ORIGIN: ClassVar[str] = "get BAR from https://github.com/alinlab/BAR and give its folder or zip"

    def __init__(
        self,
        root: Path,
        *,
        percent: Literal["1pct", "5pct"] = "1pct",
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, cache=cache, **kwargs)
        self.percent = percent

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the actions."""
        return CLASSES

    @property
    def bias_names(self) -> tuple[str, ...]:
        """Names of the places for the re-split; () for the official release, whose biases are not labelled."""
        return PLACES if self._is_resplit else ()

    @cached_property
    def _prefix(self) -> str:
        return self.locate("train/", *PREFIXES)

    @cached_property
    def _is_resplit(self) -> bool:
        return self.container.has(f"{self._prefix}train/align/")

    def load(self, split: Split) -> Samples | None:
        """Lists one split; the pictures are decoded later."""
        return self._load_resplit(split) if self._is_resplit else self._load_official(split)

    def _load_official(self, split: Split) -> Samples | None:
        if split == "val":
            return None
        names = self.container.names([f"{self._prefix}{split}/"])
        labels = np.array([self._official_label(name) for name in names], dtype=np.int64)
        return self._some(Samples(ImageFiles(self.container, names), labels, np.full_like(labels, -1)), f"{split}/")

    def _official_label(self, name: str) -> int:
        action = name.rsplit("/", 1)[-1].rsplit("_", 1)[0]
        if action not in CLASSES:
            raise ConfigError(
                f"data.root: {self.root} holds {name}, whose name is not <class>_<number> with a class of BAR; "
                "move it away"
            )
        return CLASSES.index(action)

    def _load_resplit(self, split: Split) -> Samples | None:
        if split == "train":
            aligned = self._named("train/align/")
            conflict = self._named(*(f"train/{name}/{self.percent}/" for name in CONFLICT))
            if not len(conflict):
                raise ConfigError(
                    f"data.root: {self.root} has no image below {self._prefix}train/conflict/{self.percent}/; set "
                    f"data.percent to the other share or get {RESPLIT}"
                )
            return join(
                replace(self._some(aligned, "train/align/"), biases=aligned.labels),
                replace(conflict, biases=(conflict.labels + 1) % len(CLASSES)),
            )
        folder = "valid/" if split == "val" else "test/"
        samples = self._named(folder)
        return None if split == "val" and not len(samples) else self._some(samples, folder)

    def _named(self, *folders: str) -> Samples:
        return named_samples(self.container, [f"{self._prefix}{folder}" for folder in folders], CLASSES)

    def _some(self, samples: Samples, folder: str) -> Samples:
        if not len(samples):
            raise self.unusable(f"has no image below {self._prefix}{folder}")
        return samples
