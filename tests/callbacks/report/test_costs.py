from pathlib import Path
from typing import Any

import pytest

from callbacks.report.costs import compare_costs, costs
from callbacks.report.missing import NothingToShowError
from callbacks.report.reading import RunRecord


def record(*lines: dict[str, Any]) -> RunRecord:
    common = {"grams_per_kwh": 475, "memory_mib": 100.0, "gpu_memory_mib": None, "node": 0, "devices": 1}
    emissions = [{**common, "grams": None if own["kwh"] is None else own["kwh"] * 475, **own} for own in lines]
    return RunRecord(Path("run"), "some", {}, 1, True, [], None, emissions, [])


def line(phase: str, seconds: float, kwh: float | None, **more: Any) -> dict[str, Any]:
    return {"phase": phase, "stage": "biased", "seconds": seconds, "kwh": kwh, **more}


def test_attempts_add_up_and_nodes_run_side_by_side() -> None:
    found = costs(
        record(
            line("fit", 60, 0.5), line("fit", 30, 0.25, memory_mib=300.0), line("mining", 10, 0.125),
            line("fit", 80, 0.5, node=1, gpu_memory_mib=50.0),
        )
    )  # fmt: skip
    fit, mining = found.phases
    assert (fit.phase, fit.attempts, fit.seconds, fit.kwh, fit.grams) == ("fit", 3, 90, 1.25, 1.25 * 475)
    assert (fit.memory, fit.gpu_memory) == (300, 50)
    assert (mining.seconds, mining.gpu_memory) == (10, None)
    assert (found.total.seconds, found.total.kwh, found.total.attempts) == (100, 1.375, 4)
    assert found.complete
    assert found.factors == [475]


def test_energy_that_could_not_be_measured() -> None:
    found = costs(record(line("fit", 60, None), line("test", 5, 0.5)))
    assert not found.complete
    assert (found.phases[0].kwh, found.phases[0].grams) == (None, None)
    assert found.total.kwh == 0.5
    assert costs(record(line("fit", 60, None))).total.kwh is None


def test_nothing_measured() -> None:
    with pytest.raises(NothingToShowError, match=r"no emissions\.jsonl"):
        costs(record())
    assert compare_costs([("one", record())]) == ([], [])


def test_runs_beside_one_another() -> None:
    runs = [("one", record(line("fit", 60, 1.0), line("fit", 60, 1.0, stage="debiased"))), ("two", record())]
    (time, energy, emissions), unknown = compare_costs(runs)
    assert unknown == ["Time and energy were not measured: two."]
    assert "one 2" in time.alt
    assert "one 2" in energy.alt
    assert "g CO₂e: one 950" in emissions.alt


def test_unknown_energy_is_no_bar_of_nothing() -> None:
    none, some = record(line("fit", 60, None)), record(line("fit", 60, None), line("test", 60, 2.0))
    charts, unknown = compare_costs([("none", none)])
    assert [chart.title for chart in charts] == ["Time of the runs"]
    (_, energy, _), unknown = compare_costs([("none", none), ("some", some)])
    assert energy.alt == "Energy of the runs, kWh: some 2"
    assert [part for _, part in energy.legend] == ["test"]
    assert unknown == ["The energy of some phases is not known: none, some."]


def test_the_slowest_node_counts_over_all_phases() -> None:
    seconds = {("fit", 0): 600, ("mining", 0): 60, ("fit", 1): 540, ("mining", 1): 180}
    lines = [line(phase, own, 1.0, node=node) for (phase, node), own in seconds.items()]
    assert costs(record(*lines)).total.seconds == 720
