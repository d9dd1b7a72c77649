"""The decision which captions are drawn from, on the disk."""

from pathlib import Path
from typing import Any

from callbacks.synthesis.distributed import on_rank_zero
from callbacks.synthesis.files import read_json, write_json
from callbacks.synthesis.manifest import FILTER, PLAN
from callbacks.synthesis.part import check_fingerprint, digest, plain
from callbacks.synthesis.plan import Prompt
from callbacks.synthesis.text_filter import TextFilter


def write_filter(directory: Path, text_filter: TextFilter, prompts: list[Prompt], num_classes: int) -> dict[str, Any]:
    """Filter the captions, or read what was decided before. Collective.

    Args:
        directory: The synthetic folder.
        text_filter: The filter.
        prompts: The captions.
        num_classes: Number of classes.

    Returns:
        What stands in ``filter.json``: ``kept``, a truth value for each caption; ``words``, the frequent words with
        their counts; ``stop_words``, where the stop words come from.

    Raises:
        ConfigError: Other captions or another filter were decided on before.
    """
    captions, labels = [prompt.caption for prompt in prompts], [prompt.label for prompt in prompts]
    fingerprint = {"text_filter": text_filter.settings(), "captions": digest([captions, labels, num_classes])}
    file = directory / FILTER

    def decide() -> dict[str, Any]:
        if file.is_file():
            stored: dict[str, Any] = read_json(file)
            remedy = f"delete {FILTER}, {PLAN}, images and partial in {directory}"
            check_fingerprint(file, stored.get("fingerprint"), fingerprint, remedy)
            return stored
        result = {"fingerprint": plain(fingerprint), **text_filter.filter(captions, labels, num_classes).to_json()}
        write_json(file, result)
        return result

    return on_rank_zero(decide)
