"""Which image is drawn from which caption, decided before the first one is drawn."""

import logging
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.samples import carved
from lightning_modules.errors import ConfigError

LOGGER = logging.getLogger("diffubias")
ORDER_TAG = 3
Count = int | Literal["aligned", "captions", "uniform", "additive"]


@dataclass(frozen=True)
class Prompt:
    """One caption that may be drawn.

    Attributes:
        label: Class of the image behind the caption, and so of what is drawn from it.
        source_index: That image's position in the training set, -1 where no image is behind it.
        caption: The text.
        bias: Bias attribute that the text names, -1 where it names none.
    """

    label: int
    source_index: int
    caption: str
    bias: int = -1


def make_seed(*words: int) -> int:
    """Hash non-negative numbers, such as (run seed, image, attempt), into a seed of 32 bits (all that torch uses)."""
    return int(np.random.SeedSequence(list(words)).generate_state(1, np.uint32)[0])


def without_captions(
    labels: Sequence[int], mined: Set[int], class_names: Sequence[str], from_images: bool, seed: int
) -> list[Prompt]:
    """List what may be drawn from after a mining where no caption is read; the name of the class stands for it.

    Args:
        labels: Class of every training image.
        mined: Which of them were mined.
        class_names: Names of the classes, by label.
        from_images: Draw from the training images that were not mined, in random order; else from the classes of those
            that were.
        seed: Run seed.
    """
    if not from_images:
        return [Prompt(label, -1, class_names[label]) for label in sorted({labels[index] for index in mined})]
    order = np.random.default_rng([seed, ORDER_TAG]).permutation(len(labels)).tolist()
    return [Prompt(labels[index], index, class_names[labels[index]]) for index in order if index not in mined]


def plan_images(
    prompts: Sequence[Prompt], images: Count, class_counts: Sequence[int], mined_counts: Sequence[int]
) -> list[Prompt]:
    """List the images to draw from captions, class after class, cycling over a class's captions.

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
    planned: list[Prompt] = []
    for label, (total, mined) in enumerate(zip(class_counts, mined_counts, strict=True)):
        own = [prompt for prompt in prompts if prompt.label == label and prompt.caption.strip()]
        if images == "captions":
            count = len(own)
        elif images == "aligned":
            count = total - mined
        elif isinstance(images, int) and images >= 1:
            count = images
        else:
            raise ConfigError(f"synthesize.images must be at least 1 per class, aligned or captions; got {images}")
        if not own:
            LOGGER.warning("class %d has no caption to draw from: it gets no synthetic image", label)
            continue
        planned.extend(own[number % len(own)] for number in range(count))
    if planned:
        return planned
    if not any(prompt.caption.strip() for prompt in prompts):
        raise ConfigError(
            "no caption is left to draw from: look into captions.json of the synthetic folder, and give another "
            "synthesize.captioner.prompt, or synthesize.text_filter null"
        )
    raise ConfigError(
        "no synthetic image is planned: lower synthesize.top_k, or set synthesize.images to a number per class"
    )


def plan_groups(
    prompts: Sequence[Prompt], images: Count, groups: Sequence[tuple[int, int]], held_out: float = 0.0
) -> list[Prompt]:
    """List the images to draw from prompts that need no caption, group after group, cycling over a group's prompts.

    A group is a class and the bias attribute that a prompt names; where prompts name none it is a class.

    Args:
        prompts: What may be drawn.
        images: A number per group; ``captions``: one a prompt; ``uniform``: as many as bring every group level with the
            largest one of the training set (USB of From Fake to Real, arXiv 2308.04553); ``additive``: as many in all,
            but equally many a group (ASB and the first stage of FFR there).
        groups: Class and bias attribute of every training image; -1 for the latter where it is unknown.
        held_out: Share of every group that will not be trained on; ``uniform`` and ``additive`` draw so many more.

    Returns:
        The prompt of image 0, 1, 2, ...

    Raises:
        ConfigError: Nothing would be drawn, or the bias attributes of the training images are not known.
    """
    if images == "aligned" or (isinstance(images, int) and images < 1):
        raise ConfigError(
            f"synthesize.images={images}: with synthesize.prompts nothing is mined; give a number per group from 1 on, "
            "uniform, additive or captions"
        )
    own: dict[tuple[int, int], list[Prompt]] = {}
    for prompt in prompts:
        own.setdefault((prompt.label, prompt.bias), []).append(prompt)
    named = all(bias >= 0 for _, bias in own)
    if images in ("uniform", "additive") and named and any(bias < 0 for _, bias in groups):
        raise ConfigError(
            f"synthesize.images={images} counts the groups of the training images, whose bias attributes are not all "
            "known: give a number per group"
        )
    sizes = Counter(groups if named else [(label, -1) for label, _ in groups])
    missing = {group: max(sizes.values()) - sizes[group] for group in own}
    planned: list[Prompt] = []
    for group, choice in own.items():
        if isinstance(images, int):
            count = images
        elif images == "captions":
            count = len(choice)
        else:
            wanted = missing[group] if images == "uniform" else sum(missing.values()) // len(own)
            count = _with_held_out(wanted, held_out)
        planned.extend(choice[number % len(choice)] for number in range(count))
    if not planned:
        raise ConfigError(f"synthesize.images={images} plans no image: the groups are level; give a number per group")
    return planned


def _with_held_out(wanted: int, share: float) -> int:
    """The smallest number of images of which ``wanted`` are left to train on."""
    count = wanted
    while share and wanted and count - carved(count, share) < wanted:
        count += 1
    return count
