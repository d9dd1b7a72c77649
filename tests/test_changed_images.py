"""Images that are added, removed or missing: no fit goes on with others, no test is made on what was learnt."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.chain import ROOT, Small, assert_one_line, call, run
from tests.layouts.folder import write_folder, write_images

CONFIG = ROOT / "configs/folder_vanilla.yaml"


@pytest.fixture
def words(small: Small, tmp_path: Path) -> list[str]:
    """Settings of a fit on a folder of one's own without splits."""
    write_folder(tmp_path / "images", per_group=40, splits=[""])
    own = [f"--data.root={tmp_path / 'images'}", f"--run_dir={tmp_path / 'run'}", "--report.enabled=false"]
    return [f"--config={CONFIG}", *small(CONFIG), *own]


def test_held_out_sets_that_are_drawn_anew(words: list[str], tmp_path: Path) -> None:
    assert call("fit", *words).status == 0
    assert call("test", *words).status == 0
    assert_one_line(call("test", *words, "--data.seed=5"), "data: the network learnt from", "of the 16 test images")
    assert_one_line(call("validate", *words, "--data.seed=5"), "data: the network learnt from", "validation images")
    write_images(tmp_path / "images", ["cat/0000a.jpg", "dog/0000a.jpg"])
    assert_one_line(call("test", *words), "data: the network learnt from", "of the 16 test images", "put that back")
    # images of another folder may have the same names
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    assert call("test", *words, f"--data.root={tmp_path / 'others'}").status == 0


@pytest.mark.parametrize("fault", ["kill model-fit 10", pytest.param("kill model-test 1", marks=pytest.mark.slow)])
def test_no_fit_goes_on_with_other_images(words: list[str], tmp_path: Path, fault: str) -> None:
    words = ["fit", *words, "--trainer.max_epochs=2", "--trainer.callbacks=tests.faults.FaultyCallback"]
    assert run(words, tmp_path / "output", fault).status == -signal.SIGKILL
    write_images(tmp_path / "images", ["cat/0000a.jpg", "dog/0000a.jpg"])
    assert_one_line(call(*words), "data: the training images are not those that this run began with", "--run_dir")
    for label in ("cat", "dog"):
        (tmp_path / f"images/{label}/0000a.jpg").unlink()
    assert call(*words).status == 0


def test_a_test_set_that_is_not_there_is_told_before_the_fit(small: Small, tmp_path: Path) -> None:
    config = ROOT / "configs/spuco_animals_vanilla.yaml"
    root = Path(shutil.copytree(small.root("SpuCoAnimals"), tmp_path / "data"))
    shutil.rmtree(next(root.rglob("test")))
    words = [f"--config={config}", *small(config), f"--data.root={root}", f"--run_dir={tmp_path / 'run'}"]
    assert_one_line(call("fit", *words), "data.root", "test")
    assert not (tmp_path / "run/stages").exists()
