"""Which drawn images may be trained on."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from callbacks.synthesis.generator import Sample
from callbacks.synthesis.judge import Judge
from callbacks.synthesis.part import Part
from lightning_modules.errors import ConfigError


class Gate(Part):
    """Rejects images that must not be learned from; a rejected image is drawn again with its next seed.

    Args:
        retries: How often one image is drawn again before it is left out.
        min_std: Least standard deviation of the pixels, in 8-bit units (0 to 255); below it an image is blank.
        check_duplicates: Whether an image equal to an earlier one, byte for byte, is rejected.
        min_colour: Least mean difference between the strongest and the weakest channel of a pixel, in 8-bit units;
            below it an image is grey, which From Fake to Real (arXiv 2308.04553) draws again. 0 lets all pass.
        judge: Tells how well images agree with their labels, null for no judge.
        agreement: Least probability in 0..1, as the judge has it, that an image shows its label.
        mismatch: What becomes of images below that: ``drop`` leaves them out, ``redraw`` draws them again with the next
            seed, as other rejects. ``weigh`` leaves none out: every image counts in training as much as it agrees.
    """

    def __init__(
        self,
        retries: int = 3,
        min_std: float = 2.0,
        check_duplicates: bool = True,
        min_colour: float = 0.0,
        judge: Judge | None = None,
        agreement: float = 0.5,
        mismatch: Literal["drop", "redraw", "weigh"] = "drop",
    ) -> None:
        if retries < 0:
            raise ConfigError(f"synthesize.gate.retries must be 0 or more, got {retries}")
        if not 0 <= agreement <= 1:
            raise ConfigError(f"synthesize.gate.agreement must lie in 0..1, got {agreement}")
        self.retries = retries
        self.min_std = min_std
        self.check_duplicates = check_duplicates
        self.min_colour = min_colour
        self.judge = judge
        self.agreement = agreement
        self.mismatch = mismatch

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the result; those of a judge where there is one."""
        chosen = super().settings()
        if self.judge is None:
            return {name: value for name, value in chosen.items() if name not in ("judge", "agreement", "mismatch")}
        return {**chosen, "judge": self.judge.settings()}

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

    def is_mismatch(self, agreement: float | None) -> bool:
        """Tell whether an image with this agreement, None where nobody judged it, is to be rejected."""
        return agreement is not None and agreement < self.agreement and self.mismatch != "weigh"

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
