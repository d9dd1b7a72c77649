"""Run folders that hold other settings, results or images than a command asks for, or from which something is lost."""

import shutil
from pathlib import Path

import pytest

from callbacks import run_folder
from tests.chain import Small, assert_one_line, call, contents, reached, vanilla


def test_other_settings_in_a_run_folder(fit: list[str], reference: Path) -> None:
    before = contents(reference)
    outcome = call(*fit, f"--run_dir={reference}", "--model.lr=0.5", "--data.conflict_ratio=0.2")
    assert_one_line(
        outcome, "run_dir", "model.init_args.lr: 0.001 -> 0.5", "data.init_args.conflict_ratio: 0.1 -> 0.2",
        "give another --run_dir",
    )  # fmt: skip
    assert contents(reference) == before


def test_a_run_folder_in_which_another_run_is_at_work(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    words = vanilla(small, tmp_path / "run")
    with run_folder.held(tmp_path / "run", is_rank_zero=True):
        assert_one_line(call(*words), "run_dir: another process is at work", "give another --run_dir")
    assert call(*words).status == 0


def test_results_of_other_settings_do_not_stay(small: Small, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path)
    assert call(*words).status == 0
    shutil.rmtree(tmp_path / "stages")
    assert_one_line(call(*words, "--model.lr=1e30"), "loss")
    assert not (tmp_path / "results.json").exists()


def test_other_data_than_those_of_the_run_are_told(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = vanilla(small, tmp_path)
    assert call(*words).status == 0
    assert call("test", *words[1:], "--data.seed=5").status == 0
    assert "other data than those of the run: data.init_args.seed: 1 -> 5" in caplog.text
    caplog.clear()
    assert call("test", *words[1:]).status == 0
    assert "other data" not in caplog.text


def test_a_first_attempt_that_failed_does_not_hold_the_folder(small: Small, tmp_path: Path) -> None:
    words = vanilla(small, tmp_path)
    assert_one_line(call(*words, "--model.lr=1e30"), "loss")
    assert call(*words).status == 0
    assert (tmp_path / "results.json").exists()


def test_a_failed_last_stage_is_mended_in_the_same_folder(fit: list[str], reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/02-debiased")
    words = [*fit, f"--run_dir={tmp_path / 'run'}"]
    assert_one_line(call(*words, "--model.lr=1e30"), "loss", "model.lr")
    assert_one_line(call("test", *words[1:]), "ckpt_path", "02-debiased")
    assert call(*words).status == 0
    assert contents(tmp_path / "run/stages/01-biased") == contents(reference / "stages/01-biased")
    assert reached(tmp_path / "run") == reached(reference)


def test_lost_images_are_drawn_again(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    shutil.rmtree(run / "stages/02-debiased")
    shutil.rmtree(run / "synthetic/images")
    words = [*fit, f"--run_dir={run}"]
    assert_one_line(call(*words), "is missing; delete", "metadata.jsonl and run the same command again")
    (run / "synthetic/metadata.jsonl").unlink()
    assert call(*words).status == 0
    assert contents(run / "synthetic/images") == contents(reference / "synthetic/images")
    assert reached(run) == reached(reference)


def test_a_lost_set_is_made_again_though_a_kill_came_in_between(
    fit: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    shutil.rmtree(run / "stages/02-debiased")
    for file in (run / "synthetic").iterdir():
        if file.name != "selection.json":  # what is there first
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert call(*fit, f"--run_dir={run}").status == 0
    assert contents(run / "synthetic/images") == contents(reference / "synthetic/images")
    assert reached(run) == reached(reference)


def test_what_a_run_was_made_with_must_be_known(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    words = [*fit, f"--run_dir={run}"]
    shutil.rmtree(run / "stages/01-biased")
    assert_one_line(call(*words, "--biased.q=0.2"), "biased.init_args.q: 0.7 -> 0.2")  # stage 2 builds on it
    shutil.rmtree(run / "stages")
    assert_one_line(call(*words, "--biased.q=0.2"), "biased.init_args.q: 0.7 -> 0.2")  # so do the images
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{config}\n\t: [")
    assert_one_line(call(*words), "config.yaml is damaged")
    (run / "config.yaml").unlink()
    assert_one_line(call(*words), "without its config.yaml")


def test_checkpoints_that_are_lost_or_damaged(fit: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    words = [*fit, f"--run_dir={run}"]
    last = run / "stages/02-debiased/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert_one_line(call("test", *words[1:]), "last.ckpt is damaged")
    last.unlink()
    assert_one_line(call("test", *words[1:]), "no trained model in", "02-debiased")
    (run / "stages/02-debiased/done").unlink()
    assert_one_line(call(*words), "last.ckpt is missing", "delete")
    assert_one_line(call("test", *words[1:], f"--ckpt_path={run / 'config.yaml'}"), "config.yaml is damaged or no")


def test_the_strip_is_drawn_if_a_kill_came_before_it(fit: list[str], reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/synthetic/strip.png").unlink()
    (tmp_path / "run/stages/01-biased/done").unlink()
    assert call(*fit, f"--run_dir={tmp_path / 'run'}").status == 0
    strip = "synthetic/strip.png"
    assert (tmp_path / "run" / strip).read_bytes() == (reference / strip).read_bytes()


def test_a_selection_of_other_data_is_not_taken_over(fit: list[str], reference: Path, tmp_path: Path) -> None:
    words = [*fit, f"--synthesize.reuse={reference / 'synthetic'}", "--data.mined_repeat=2", "--data.train_size=88"]
    assert_one_line(call(*words, f"--run_dir={tmp_path}"), "selection.json")
    assert not (tmp_path / "synthetic/selection.json").exists()
