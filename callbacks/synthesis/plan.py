"""Which image is drawn from which caption, decided before the first one is drawn."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_modules.errors import ConfigError

LOGGER = logging.getLogger("diffubias")
Count = int | Literal["aligned", "captions"]


@dataclass(frozen=True)
class Prompt:
    """One caption that may be drawn.

    Attributes:
        label: Class of the image behind the caption, and so of what is drawn from it.
        source_index: That image's position in the training set.
        caption: The text.
    """

    label: int
    source_index: int
    caption: str


def make_seed(*words: int) -> int:
    """Hash non-negative numbers, such as (run seed, image, attempt), into a seed of 32 bits (all that torch uses)."""
    return int(np.random.SeedSequence(list(words)).generate_state(1, np.uint32)[0])


def plan_images(
    prompts: Sequence[Prompt], images: Count, class_counts: Sequence[int], mined_counts: Sequence[int]
) -> list[Prompt]:
    """List the images to draw, class after class, cycling over a class's captions.

    Args:
        prompts: Kept captions, in the order of the selection.
        images: A number per class; ``aligned``: as many as the class has images that were not mined, which brings
            generated and aligned images level (DiffuBias, section 4.4); ``captions``: one a caption.
        class_counts: Training images of each class.
        mined_counts: Mined images of each class.

    Returns:
        The prompt of image 0, 1, 2, ...

    Raises:
        ConfigError: Nothing would be drawn.
    """
    if isinstance(images, int) and images < 1:
        raise ConfigError(f"synthesize.images must be at least 1 per class, or aligned, or captions; got {images}")
    planned: list[Prompt] = []
    for label, (total, mined) in enumerate(zip(class_counts, mined_counts, strict=True)):
        own = [prompt for prompt in prompts if prompt.label == label and prompt.caption.strip()]
        count = len(own) if images == "captions" else total - mined if images == "aligned" else images
        if not own:
            LOGGER.warning("class %d has no caption to draw from: it gets no synthetic image", label)
            continue
        planned.extend(own[number % len(own)] for number in range(count))
    if not planned:
        raise ConfigError(
            "no synthetic image is planned: lower synthesize.top_k, or set synthesize.images to a number per class"
        )
    return planned
