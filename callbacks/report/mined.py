"""What was mined, with pictures, and how well the mining found what contradicts the bias."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.report.charts import Chart, lines_chart
from callbacks.report.mining_curve import mining_curve
from callbacks.report.missing import NothingToShowError
from callbacks.report.opened import OpenedRun
from callbacks.report.pictures import thumbnail
from callbacks.report.reading import Json, RunRecord, Synthesis, bias_names, need_synthesis
from callbacks.report.settings import Report
from callbacks.synthesis.manifest import Caption


@dataclass(frozen=True)
class MinedImage:
    """One mined image.

    Attributes:
        picture: A data URI, None where the data are not at hand.
        loss: Its cross-entropy under the biased model, in nats.
        bias: Name or number of its bias attribute, "" where unknown.
        captions: Its captions.
    """

    picture: str | None
    loss: float
    bias: str
    captions: list[Caption]


@dataclass(frozen=True)
class Mined:
    """What was mined.

    Attributes:
        count: How many images.
        top_k: How many were asked for.
        scope: ``class`` or ``set``.
        classes: Name of each class, how many of it were mined, and the hardest of them.
        captions: How many captions were written.
        dropped: How many of them the text filter dropped, None where it has not looked at them.
        frequent: The words by which it chose.
        precision: Share of bias-conflicting images among the mined ones, None where unknown.
        recall: Share of the bias-conflicting images that were mined, None where unknown.
        curve: Precision and recall against K, None where they are not known.
        why_no_curve: Why not, in one sentence; "" where there is one.
    """

    count: int
    top_k: int
    scope: str
    classes: list[tuple[str, int, list[MinedImage]]]
    captions: int
    dropped: int | None
    frequent: list[tuple[str, int]]
    precision: float | None
    recall: float | None
    curve: Chart | None
    why_no_curve: str


def mined(record: RunRecord, opened: OpenedRun | None, settings: Report) -> Mined:
    """Describe what was mined.

    Args:
        record: The run.
        opened: Its data, None where they are not at hand.
        settings: How many pictures to show.

    Raises:
        NothingToShowError: Nothing was mined.
    """
    synthesis = need_synthesis(record)
    if not synthesis.mined:
        raise NothingToShowError(
            "Nothing was mined: the images were drawn from prompts, or taken over from another run."
        )
    names = bias_names(record) if opened is None else opened.data.bias_names
    counts = Counter(item["label"] for item in synthesis.mined)
    classes = []
    for label, name in enumerate(synthesis.classes):
        own = [item for item in synthesis.mined if item["label"] == label][: settings.pictures]
        if own:
            classes.append((name, counts[label], [_mined_image(item, synthesis, opened, names) for item in own]))
    captions = [caption for own in synthesis.captions.values() for caption in own]
    precision, recall, chart, why = _curve(synthesis)
    return Mined(
        count=len(synthesis.mined),
        top_k=synthesis.top_k,
        scope=synthesis.scope,
        classes=classes,
        captions=len(captions),
        dropped=sum(not caption.kept for caption in captions) if synthesis.filtered else None,
        frequent=synthesis.frequent,
        precision=precision,
        recall=recall,
        curve=chart,
        why_no_curve=why,
    )


def _mined_image(item: Json, synthesis: Synthesis, opened: OpenedRun | None, names: Sequence[str]) -> MinedImage:
    picture = None if opened is None else thumbnail(opened.data.source_image(item["index"]))
    bias = item["bias"]
    shown = "" if bias < 0 else names[bias] if bias < len(names) else f"attribute {bias}"
    return MinedImage(picture, item["loss"], shown, synthesis.captions.get(item["index"], []))


def _curve(synthesis: Synthesis) -> tuple[float | None, float | None, Chart | None, str]:
    if synthesis.losses is None:
        return None, None, None, "The losses of all training images were not kept when this run mined."
    curve = mining_curve(synthesis.losses, synthesis.scope)
    if curve is None:
        return None, None, None, "No training image is known to contradict the bias, so that nothing can be counted."
    losses, chosen = synthesis.losses, np.array([item["index"] for item in synthesis.mined])
    hits, known = int(losses.conflict[chosen].sum()), int(losses.known[chosen].sum())
    of = "each class" if synthesis.scope == "class" else "the set"
    chart = lines_chart(
        "Precision and recall of the mining",
        curve.k,
        {"precision": curve.precision, "recall": curve.recall},
        (f"images mined of {of}, K", "share"),
        "mining.csv",
        mark=synthesis.top_k,
        level=curve.chance,
    )
    return hits / known if known else None, hits / int(losses.conflict.sum()), chart, ""
