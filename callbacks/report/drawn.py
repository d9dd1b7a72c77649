"""What was drawn, with pictures, and whether it copies real images."""

from dataclasses import dataclass

import numpy as np

from callbacks.report.charts import Chart, histogram
from callbacks.report.features import describe
from callbacks.report.missing import Missing, NothingToShowError, attempt
from callbacks.report.neighbours import Neighbours, find_neighbours
from callbacks.report.opened import OpenedRun
from callbacks.report.pictures import thumbnail
from callbacks.report.reading import Json, RunRecord, Synthesis, need_synthesis
from callbacks.report.settings import Report
from callbacks.synthesis.drawing import read_image

SPREAD = 1000  # generated images whose distances are drawn as a histogram


@dataclass(frozen=True)
class DrawnImage:
    """One generated image.

    Attributes:
        picture: A data URI.
        prompt: What it was drawn from.
        neighbour: The nearest real training image as a data URI, None where the data are not at hand.
        ratio: Distance to it over the median distance between real neighbours.
        percentile: Share of the real images that have a nearer real neighbour, 0..1.
        agreement: What a judge says of image and label, where one was asked.
    """

    picture: str
    prompt: str
    neighbour: str | None
    ratio: float | None
    percentile: float | None
    agreement: float | None


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        count: How many images.
        classes: Name of each class, how many images it has, and some of them.
        rejected: Class, reason and how often the gate gave it.
        spread: Distances of generated and of real images to their nearest real one.
        space: What the distances are measured in, "" where there are none.
        searched: Among how many of the real images the neighbours were looked for, and how many there are.
        why_no_neighbours: Why there are none, in one sentence; "" where there are.
        agreement: Mean of what a judge says, None where none was asked.
    """

    count: int
    classes: list[tuple[str, int, list[DrawnImage]]]
    rejected: list[tuple[str, str, int]]
    spread: Chart | None
    space: str
    searched: tuple[int, int]
    why_no_neighbours: str
    agreement: float | None


def drawn(record: RunRecord, opened: OpenedRun | None, settings: Report, stage: str | None) -> Drawn:
    """Describe what was drawn.

    Args:
        record: The run.
        opened: Its data and models, None where they are not at hand.
        settings: How much to show.
        stage: The stage in whose features distances are measured; None takes pixels.

    Raises:
        NothingToShowError: Nothing was drawn.
    """
    synthesis = need_synthesis(record)
    if not synthesis.drawn:
        raise NothingToShowError("No image was drawn: this chain stops with the mining, or has not come so far.")
    random = np.random.default_rng(0)
    labels = np.array([item["label"] for item in synthesis.drawn])
    shown: dict[int, list[int]] = {}
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        shown[label] = sorted(random.choice(own, min(settings.pictures, len(own)), replace=False).tolist())
    rows = [row for own in shown.values() for row in own]
    searched = attempt(lambda: _search(synthesis, opened, settings, stage, rows))
    search, why = (None, searched.reason) if isinstance(searched, Missing) else (searched, "")
    places = {row: place for place, row in enumerate(rows)}
    classes = []
    for label, chosen in shown.items():
        pictures = [_drawn_image(synthesis, synthesis.drawn[row], opened, search, places[row]) for row in chosen]
        classes.append((synthesis.drawn[chosen[0]]["class_name"], int((labels == label).sum()), pictures))
    scores = [float(item["agreement"]) for item in synthesis.drawn if item.get("agreement") is not None]
    return Drawn(
        count=len(labels),
        classes=classes,
        rejected=[(name, reason, count) for (name, reason), count in sorted(synthesis.rejected.items())],
        spread=search.chart() if search else None,
        space=search.space if search else "",
        searched=(len(search.real), search.total) if search else (0, 0),
        why_no_neighbours=why,
        agreement=sum(scores) / len(scores) if scores else None,
    )


@dataclass(frozen=True)
class _Search:
    """The neighbours of the shown images (first) and of some more."""

    found: Neighbours
    real: list[int]
    total: int
    space: str

    def chart(self) -> Chart:
        """Draw the distances."""
        return histogram(
            "Distance to the nearest real image",
            {"generated": self.found.ratio, "real": self.found.scale / self.found.unit},
            "distance, median of real images = 1",
            "neighbours.csv",
        )


def _search(
    synthesis: Synthesis, opened: OpenedRun | None, settings: Report, stage: str | None, rows: list[int]
) -> _Search:
    """Look for the neighbours of some generated images, and of more for the distances.

    Raises:
        NothingToShowError: There are no real images to look among.
    """
    if opened is None:
        raise NothingToShowError("The data are not at hand.")
    total = len(opened.data.train_labels())
    if total < 2:
        raise NothingToShowError("There is only one real image.")
    module = None if stage is None else opened.classifier(stage)
    random = np.random.default_rng(1)
    more = np.setdiff1d(random.permutation(len(synthesis.drawn))[:SPREAD], rows)
    # what an image was drawn after is the first thing that it may be a copy of
    sources = [synthesis.drawn[row].get("source_index", -1) for row in rows]
    some = random.permutation(total)[: settings.searched]
    real = np.union1d(some, [own for own in sources if 0 <= own < total]).astype(np.int64).tolist()
    queries = describe(module, opened.data.chosen_synthetic_dataloader([*rows, *more.tolist()]), opened.device)
    reference = describe(module, opened.data.chosen_dataloader("train", real), opened.device)
    space = "pixels" if stage is None else f"features of {stage}"
    return _Search(find_neighbours(queries.features, reference.features), real, total, space)


def _drawn_image(
    synthesis: Synthesis, item: Json, opened: OpenedRun | None, search: _Search | None, place: int
) -> DrawnImage:
    picture = thumbnail(read_image(synthesis.directory / item["file_name"]))
    agreement = item.get("agreement")
    if search is None or opened is None:
        return DrawnImage(picture, item.get("prompt", ""), None, None, None, agreement)
    found = search.found
    neighbour = thumbnail(opened.data.source_image(search.real[int(found.index[place])]))
    ratio, percentile = float(found.ratio[place]), float(found.percentile[place])
    return DrawnImage(picture, item.get("prompt", ""), neighbour, ratio, percentile, agreement)
