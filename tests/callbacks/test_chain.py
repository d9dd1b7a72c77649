from pathlib import Path

import pytest

from callbacks.chain import Stage, unroll
from lightning_modules.errors import ConfigError


def test_repeats_follow_one_another(tmp_path: Path) -> None:
    stages = {"biased": Stage(module="biased", repeat=3), "model": Stage(uses={"committee": "biased"})}
    fits = unroll(stages, tmp_path)
    assert [fit.name for fit in fits] == ["biased-1", "biased-2", "biased-3", "model"]
    assert [fit.written for fit in fits] == ["biased", "biased", "biased", "model"]
    assert [fit.position for fit in fits] == [1, 2, 3, 4]
    assert [fit.directory.relative_to(tmp_path).as_posix() for fit in fits] == [
        "stages/01-biased-1", "stages/02-biased-2", "stages/03-biased-3", "stages/04-model",
    ]  # fmt: skip
    assert fits[3].last == tmp_path / "stages/04-model/checkpoints/last.ckpt"


def test_repeats_of_neighbouring_run_seeds_have_no_seed_in_common(tmp_path: Path) -> None:
    repeated, single = (unroll({"biased": Stage(repeat=number)}, tmp_path) for number in (5, 1))
    assert len({fit.seed(run_seed) for fit in repeated for run_seed in range(5)}) == 25
    assert [single[0].seed(run_seed) for run_seed in (0, 7)] == [1, 8]


def test_a_stage_that_is_not_repeated_keeps_its_name(tmp_path: Path) -> None:
    (fit,) = unroll({"model": Stage()}, tmp_path)
    assert (fit.name, fit.directory) == ("model", tmp_path / "stages/01-model")
    assert not fit.is_started
    assert not fit.is_done
    fit.last.parent.mkdir(parents=True)
    fit.last.touch()
    (fit.directory / "done").touch()
    assert fit.is_started
    assert fit.is_done


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": Stage(init_from="b"), "b": Stage()}, r"stages\.a\.init_from: b is no earlier stage; earlier: \[\]"),
        ({"a": Stage(), "b": Stage(uses={"x": "c"})}, r"stages\.b\.uses\.x: c is no earlier stage; earlier: \['a'\]"),
        ({"a": Stage(uses={"x": "a"})}, r"stages\.a\.uses\.x: a is no earlier stage"),
        ({"a": Stage(repeat=2), "b": Stage(uses={"x": "a-1"})}, r"stages\.b\.uses\.x: a-1 is no earlier stage"),
        ({"a": Stage(repeat=2), "b": Stage(init_from="a")}, r"stages\.b\.init_from: a is fitted 2 times.*fitted once"),
        ({"a": Stage(repeat=0)}, r"stages\.a\.repeat must be at least 1, got 0"),
        ({"a": Stage(batch_size=0)}, r"stages\.a\.batch_size must be at least 1, got 0"),
        ({"a": Stage(repeat=2, synthesize="end")}, r"stages\.a\.repeat: .*repeat another stage"),
        ({"a": Stage(repeat=2), "a-2": Stage()}, r"stages\.a-2: .*rename the stage"),
    ],
)
def test_what_cannot_work_is_refused(stages: dict[str, Stage], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        unroll(stages, tmp_path)
    assert "\n" not in str(error.value)
