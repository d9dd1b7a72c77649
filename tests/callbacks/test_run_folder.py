from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.chain import Fit, Stage, unroll
from callbacks.run_folder import claim
from callbacks.settings import flatten
from lightning_modules.errors import ConfigError


def settings(**changes: Any) -> dict[str, Any]:
    stages = {"first": {"module": "biased", "repeat": 2}, "second": {"module": "model"}}
    base = {
        "seed_everything": 1,
        "biased": {"lr": 0.1},
        "model": {"lr": 0.1},
        "trainer": {"devices": 1, "max_epochs": 2},
    }
    return {**base, "stages": stages, **changes}


def chain(run_dir: Path, config: dict[str, Any]) -> list[Fit]:
    return unroll({name: Stage(**own) for name, own in config["stages"].items()}, run_dir)


def take(run_dir: Path, config: dict[str, Any]) -> None:
    claim(run_dir, yaml.safe_dump(config), chain(run_dir, config), is_rank_zero=True)


def start(run_dir: Path, *positions: int) -> None:
    for position in positions:
        file = chain(run_dir, settings())[position - 1].last
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_keys_are_dotted_and_what_only_concerns_the_execution_is_left_out() -> None:
    config = {"run_dir": "x", "trainer": {"devices": 2, "max_epochs": 3}, "model": {"args": {}, "init": {"lr": 1}}}
    assert flatten(config) == {"trainer.max_epochs": 3, "model.args": {}, "model.init.lr": 1}


def test_the_same_settings_on_other_devices_go_on(tmp_path: Path) -> None:
    take(tmp_path, settings())
    start(tmp_path, 1, 2, 3)
    before = (tmp_path / "config.yaml").stat().st_mtime_ns
    take(tmp_path, settings(trainer={"devices": 8, "max_epochs": 2}))
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == before


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    take(tmp_path, settings())
    start(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"biased\.lr: 0\.1 -> 0\.2; seed_everything: 1 -> 3\).*another --run_dir"):
        take(tmp_path, settings(biased={"lr": 0.2}, seed_everything=3))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == settings()


def test_other_processes_refuse_too_but_write_nothing(tmp_path: Path) -> None:
    config = settings(biased={"lr": 0.2})
    claim(tmp_path / "new", yaml.safe_dump(config), chain(tmp_path / "new", config), is_rank_zero=False)
    assert not (tmp_path / "new").exists()
    take(tmp_path, settings())
    start(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"biased\.lr: 0\.1 -> 0\.2"):
        claim(tmp_path, yaml.safe_dump(config), chain(tmp_path, config), is_rank_zero=False)


def test_stages_that_have_not_begun_may_change(tmp_path: Path) -> None:
    take(tmp_path, settings())
    start(tmp_path, 1)
    later = {
        "first": {"module": "biased", "repeat": 2},
        "second": {"module": "model", "uses": {"x": "first"}, "repeat": 3},
    }
    changed = settings(model={"lr": 0.5}, stages=later)
    take(tmp_path, changed)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == changed


def test_one_repeat_that_has_begun_fixes_its_stage(tmp_path: Path) -> None:
    take(tmp_path, settings())
    start(tmp_path, 1)
    for stage in ({"module": "biased", "repeat": 2, "max_epochs": 9}, {"module": "biased", "repeat": 3}):
        with pytest.raises(ConfigError, match=r"stages\.first\.(max_epochs|repeat)"):
            take(tmp_path, settings(stages={"first": stage, "second": {"module": "model"}}))


def test_folders_of_another_chain_are_not_taken_for_stages_that_have_not_begun(tmp_path: Path) -> None:
    take(tmp_path, settings())
    start(tmp_path, 1, 2, 3)
    for first in ({"module": "biased"}, {"module": "biased", "repeat": 1}):  # 01-first in place of 01-first-1
        with pytest.raises(ConfigError, match=r"stages\.first\.repeat: 2"):
            take(tmp_path, settings(stages={"first": first, "second": {"module": "model"}}))


def test_a_folder_without_a_checkpoint_is_free(tmp_path: Path) -> None:
    take(tmp_path / "run", settings())
    take(tmp_path / "run", settings(seed_everything=2))
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["seed_everything"] == 2


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path / 'run'} is not a folder"):
        take(tmp_path / "run", settings())
