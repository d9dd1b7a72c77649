"""The loggers of a chain and of the commands that look at its models."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger

from callbacks.loggers import make_loggers, run_name


def make_wandb(run_dir: Path, name: str, /, of_chain: bool, **settings: Any) -> Any:
    pytest.importorskip("wandb")
    known = {"prefix": "", "project": "lightning_logs", "save_dir": ".", **settings}  # Lightning's defaults are there
    spec = Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(known))
    made = make_loggers(spec, run_dir, name, run_dir / name, of_chain)
    assert made
    return made[0]


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))


def test_stages_share_a_wandb_run_and_other_commands_have_their_own(tmp_path: Path) -> None:
    biased, debiased = (make_wandb(tmp_path / "run", name, of_chain=True) for name in ("biased", "debiased"))
    other = make_wandb(tmp_path / "run", "test", of_chain=False)
    assert biased.version == debiased.version != other.version
    assert [own.version.rpartition("-")[0] for own in (biased, other)] == ["run", "run-test"]
    assert [own._prefix for own in (biased, debiased, other)] == ["biased", "debiased", ""]
    assert biased._checkpoint_name != debiased._checkpoint_name
    assert [own._wandb_init["dir"] for own in (biased, other)] == [str(tmp_path / "run"), str(tmp_path / "run/test")]
    assert biased.save_dir == str(tmp_path / "run/biased")  # where a profiler writes


def test_ids_of_long_names_are_short_and_differ(tmp_path: Path) -> None:
    runs = [make_wandb(tmp_path / f"{'x' * 140}{seed}", "biased", of_chain=True) for seed in (1, 2)]
    assert runs[0].version != runs[1].version
    # W&B takes no artifact with a name of more than 128 characters
    assert all(len(f"{own.version}-manifest") <= 128 and len(own._checkpoint_name) <= 128 for own in runs)


def test_a_logger_that_needs_a_folder_gets_the_one_that_is_given(tmp_path: Path) -> None:
    spec = Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(save_dir="."))
    made = make_loggers(spec, tmp_path, "biased", tmp_path / "biased", of_chain=True)
    assert made
    (logger,) = made
    assert isinstance(logger, CSVLogger)
    assert logger.save_dir == "."


def test_what_the_user_says_goes_first(tmp_path: Path) -> None:
    logger = make_wandb(tmp_path / "run", "biased", of_chain=True, prefix="mine", id="abc", project="p", name="n")
    assert logger._prefix == "mine-biased"
    assert [logger._wandb_init[key] for key in ("id", "project", "name")] == ["abc", "p", "n"]


def test_runs_of_a_sweep_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_name(Path("runs/bar/model.lr=0.1/seed-1")) == "bar-model.lr_0.1-seed-1"
    assert run_name(Path("runs/bar")) == "bar"
    assert run_name(tmp_path / "elsewhere" / "größe 1") == "gr__e_1"
