import json
from pathlib import Path
from typing import Any

from callbacks.chain import Stage, unroll
from callbacks.results import table, write_results


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_results_gather_what_the_stages_have(tmp_path: Path) -> None:
    fits = unroll({"first": Stage(repeat=2), "second": Stage()}, tmp_path)
    for number, fit in enumerate(fits, start=1):
        write(fit.directory / "test.json", {"accuracy": number / 8})
        write(fit.directory / "groups.json", [{"label": "dog", "bias": None, "count": 8, "correct": number}])
    write(fits[2].directory / "best_validation.json", {"accuracy": 0.5})
    write(fits[2].directory / "test_curve.csv", "epoch,step,accuracy,conflict\n0,5,0.75,0.5\n1,10,0.25,1.0\n")
    rows = write_results(tmp_path, fits, "some", 7)
    assert rows == {"first-1": {"accuracy": 0.125}, "first-2": {"accuracy": 0.25}, "second": {"accuracy": 0.375}}
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["config"], results["seed"], results["test"]) == ("some", 7, rows)
    assert results["best_validation"] == {"second": {"accuracy": 0.5}}
    assert results["best_test"] == {"second": {"accuracy": 0.75, "conflict": 0.5}}
    assert "not for comparison" in results["selection"]["best_test"]
    assert results["groups"]["first-2"] == [{"label": "dog", "bias": None, "count": 8, "correct": 2}]
    assert {"torch", "lightning", "diffusers", "transformers"} <= set(results["packages"])


def test_nothing_is_said_of_a_selection_that_was_not_made(tmp_path: Path) -> None:
    fits = unroll({"model": Stage()}, tmp_path)
    write(fits[0].directory / "test.json", {"accuracy": 0.5})
    write_results(tmp_path, fits, "some", 1)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["selection"]) == ["test"]
    assert "best_test" not in results


def test_table_shows_dashes_for_what_is_unknown() -> None:
    text = table({"biased": {"accuracy": 0.5, "conflict": 0.25}, "debiased": {"accuracy": 1.0}})
    assert text.splitlines()[1].split() == ["biased", "50.0", "25.0"]
    assert text.splitlines()[2].split() == ["debiased", "100.0", "-"]
    assert "no bias labels" in table({"model": {"accuracy": 0.5}})
    # a test set of aligned images alone has labels
    assert "no bias labels" not in table({"model": {"accuracy": 0.5, "aligned": 0.5}})


def test_table_makes_room_for_long_names() -> None:
    header, line = table({"a_stage_with_quite_a_name-12": {"accuracy": 0.5, "conflict": 0.25}}).splitlines()
    assert line.split() == ["a_stage_with_quite_a_name-12", "50.0", "25.0"]
    assert len(line) == len(header)
