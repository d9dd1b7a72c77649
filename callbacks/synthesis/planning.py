"""The plan of what is drawn, on the disk."""

from pathlib import Path
from typing import Any

from callbacks.synthesis.files import make_folder, read_json, write_json
from callbacks.synthesis.manifest import PLAN
from callbacks.synthesis.part import check_fingerprint, plain
from callbacks.synthesis.plan import Prompt


def write_plan(
    directory: Path, settings: dict[str, Any], digests: dict[str, str], planned: list[Prompt], num_classes: int
) -> None:
    """Record what is about to be drawn, or check that it is what was being drawn.

    Args:
        directory: The synthetic folder.
        settings: What determines the set.
        digests: Of the prompts and of the model that draws.
        planned: What each image is drawn from.
        num_classes: Number of classes.

    Raises:
        ConfigError: Something else was being drawn.
    """
    file = directory / PLAN
    plan = {
        "settings": plain(settings),
        "prompts": digests,
        "per_class": [sum(prompt.label == label for prompt in planned) for label in range(num_classes)],
    }
    if file.is_file():
        check_plan(file, plan["settings"], "settings")
        check_plan(file, plan["prompts"], "prompts")
    else:
        make_folder(directory)
        write_json(file, plan)


def check_plan(file: Path, expected: dict[str, Any], part: str) -> None:
    """Refuse to go on with a plan that was made otherwise.

    Args:
        file: The plan.
        expected: What the part is now.
        part: ``settings`` or ``prompts``.

    Raises:
        ConfigError: It was something else.
    """
    remedy = f"delete metadata.jsonl, {PLAN}, images and partial in {file.parent} to draw anew"
    check_fingerprint(file, read_json(file).get(part), expected, remedy)
