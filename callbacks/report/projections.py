"""How classifiers arrange images: by class, by bias, and by whether they are real."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from callbacks.report.charts import Chart, scatter
from callbacks.report.features import TITLES, Described, describe, project
from callbacks.report.missing import Missing, NothingToShowError, attempt
from callbacks.report.opened import OpenedRun
from callbacks.report.reading import RunRecord, need_classifiers
from callbacks.report.settings import Projection, Report


@dataclass(frozen=True)
class Projected:
    """One classifier's features in one projection.

    Attributes:
        stage: Name of the classifier.
        charts: The same points by class, by bias and by source, as far as these are known; or why there are none.
    """

    stage: str
    charts: list[Chart] | Missing


@dataclass(frozen=True)
class Projections:
    """The features of test images and of generated images.

    Attributes:
        real: How many real images are shown.
        synthetic: How many generated images are shown.
        methods: Title of each projection, with one entry a classifier.
    """

    real: int
    synthetic: int
    methods: list[tuple[str, list[Projected]]]


def projections(record: RunRecord, opened: OpenedRun | None, settings: Report) -> Projections:
    """Lay out the features of the first and of the last classifier.

    Args:
        record: The run.
        opened: Its data and models.
        settings: How many points and which projections.

    Raises:
        NothingToShowError: Data or models are not at hand.
        ConfigError: They cannot be read.
    """
    if opened is None:
        raise NothingToShowError("The data are not at hand.")
    stages = [stage.name for stage in need_classifiers(record)]
    synthetic = len(record.synthesis.drawn) if record.synthesis else 0
    real = len(opened.data.split_labels("test")[0])
    random = np.random.default_rng(3)
    share = settings.points - settings.points // 3 if synthetic else settings.points
    rows = sorted(random.permutation(real)[:share].tolist())
    drawn = sorted(random.permutation(synthetic)[: settings.points // 3].tolist())
    described = {stage: _describe(stage, rows, drawn, opened) for stage in stages}
    methods = [
        (TITLES[how], [Projected(stage, _charts(own, how, stage, record, opened)) for stage, own in described.items()])
        for how in settings.projections
    ]
    return Projections(len(rows), len(drawn), methods)


def _describe(stage: str, rows: list[int], drawn: list[int], opened: OpenedRun) -> tuple[Described, Described | None]:
    module = opened.classifier(stage)
    real = describe(module, opened.data.chosen_dataloader("test", rows), opened.device)
    if not drawn:
        return real, None
    return real, describe(module, opened.data.chosen_synthetic_dataloader(drawn), opened.device)


def _charts(
    described: tuple[Described, Described | None],
    how: Projection,
    stage: str,
    record: RunRecord,
    opened: OpenedRun,
) -> list[Chart] | Missing:
    real, synthetic = described
    every = real.features if synthetic is None else np.concatenate((real.features, synthetic.features))
    points = attempt(lambda: project(every, how))
    if isinstance(points, Missing):
        return points
    more = 0 if synthetic is None else len(synthetic.label)
    hidden = np.full(more, -1)

    def chart(title: str, groups: NDArray[np.int64], names: list[str]) -> Chart:
        return scatter(title, points, groups, names, f"{how}-{stage}-{title.replace(' ', '-')}.csv")

    names = list(opened.data.bias_names)
    charts = [chart("by class", np.concatenate((real.label, hidden)), list(opened.data.class_names))]
    if names and (real.bias >= 0).any():
        charts.append(chart("by bias", np.concatenate((real.bias, hidden)), names))
    if more:
        source = np.concatenate((np.zeros_like(real.label), np.ones(more, dtype=np.int64)))
        charts.append(chart("by source", source, ["real", "generated"]))
    return charts
