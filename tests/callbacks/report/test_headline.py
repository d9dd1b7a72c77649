from pathlib import Path

from callbacks.report.headline import headline
from callbacks.report.reading import RunRecord, StageResult


def titles(**metrics: float) -> list[str]:
    stages = [StageResult("biased", metrics, []), StageResult("debiased", metrics, [])]
    found = headline(RunRecord(Path("run"), "some", {}, 1, True, stages, None, [], []), None)
    assert found.labelled == ("conflict" in metrics)
    return [tile.title for tile in found.tiles]


def test_groups_have_tiles_where_the_bias_is_known() -> None:
    assert titles(accuracy=0.5, worst_class=0.25) == ["Accuracy", "Worst class"]
    known = titles(accuracy=0.5, worst_class=0.25, aligned=0.75, conflict=0.25, worst_group=0.0, balanced=0.4)
    assert known == ["Accuracy", "Bias-aligned", "Bias-conflicting", "Worst group", "Mean of the groups"]
    level = titles(accuracy=0.5, aligned=0.75, conflict=0.25, worst_group=0.0, balanced=0.5)
    assert "Mean of the groups" not in level
