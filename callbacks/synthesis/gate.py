"""Which drawn images may be trained on."""

from collections.abc import Iterable

import numpy as np

from callbacks.synthesis.generator import Sample
from callbacks.synthesis.part import Part
from lightning_modules.errors import ConfigError

REASONS = ("unsafe", "nan", "size", "constant", "grey", "duplicate")


class Gate(Part):
    """Rejects images that must not be learned from; a rejected image is drawn again with its next seed.

    Args:
        retries: How often one image is drawn again before it is left out.
        min_std: Least standard deviation of the pixels, in 8-bit units (0 to 255); below it an image is blank.
        check_duplicates: Whether an image equal to an earlier one, byte for byte, is rejected.
        min_colour: Least mean difference between the strongest and the weakest channel of a pixel, in 8-bit units;
            below it an image is grey, which From Fake to Real (arXiv 2308.04553) draws again. 0 lets all pass.
    """

    def __init__(
        self, retries: int = 3, min_std: float = 2.0, check_duplicates: bool = True, min_colour: float = 0.0
    ) -> None:
        if retries < 0:
            raise ConfigError(f"synthesize.gate.retries must be 0 or more, got {retries}")
        self.retries = retries
        self.min_std = min_std
        self.check_duplicates = check_duplicates
        self.min_colour = min_colour

    def check(self, sample: Sample, size: tuple[int, int] | None = None) -> str | None:
        """Judge one image by itself.

        Args:
            sample: The drawn image with the pipeline's flags.
            size: Expected (width, height) in pixels, None where any size will do.

        Returns:
            None to keep it, or the reason: ``unsafe``, ``nan``, ``size``, ``constant`` or ``grey``.
        """
        if sample.unsafe:
            return "unsafe"
        if sample.nan or sample.image is None:
            return "nan"
        height, width = sample.image.shape[:2]
        if sample.image.ndim != 3 or sample.image.shape[2] != 3 or (size is not None and (width, height) != size):
            return "size"
        if float(np.std(sample.image)) < self.min_std:
            return "constant"
        if self.min_colour and float(np.ptp(sample.image.astype(np.int16), axis=2).mean()) < self.min_colour:
            return "grey"
        return None

    def duplicates(self, candidates: Iterable[tuple[int, str]], seen: dict[str, int]) -> set[int]:
        """Find images that repeat an earlier one, the lowest number keeps its place.

        Args:
            candidates: (number, digest) of newly drawn images.
            seen: Digest to number of the images kept so far; the new ones that stay are added.

        Returns:
            Numbers of the repeats.
        """
        repeats: set[int] = set()
        for number, value in sorted(candidates):
            if self.check_duplicates and seen.setdefault(value, number) != number:
                repeats.add(number)
        return repeats
