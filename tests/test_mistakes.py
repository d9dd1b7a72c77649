"""Mistakes: one line that names the key or the file and the remedy, before any work is done."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.chain import ROOT, Small, assert_one_line, call, vanilla

MINIATURE = ROOT / "configs/miniature.yaml"
VANILLA = ROOT / "configs/miniature_vanilla.yaml"
BAR = ROOT / "configs/bar.yaml"


def test_unknown_flag(small: Small, tmp_path: Path) -> None:
    outcome = call("fit", f"--config={MINIATURE}", "--model.learning_rate=1", f"--run_dir={tmp_path}")
    assert_one_line(outcome, "model", "learning_rate")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "--config=no.yaml"], ["no.yaml"]),
        (["fit", "--config={MINIATURE}", "--biased.q=2"], ["q", "2"]),
        (["fit", "--config={MINIATURE}", "--biased.q=high"], ["biased", "q"]),
        (["fit", "--config={MINIATURE}", "--model.backbone=resnet19"], ["backbone", "resnet19", "resnet18"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.data=fake"], ["stages", "data"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.module=none"], ["stages.debiased.module", "none"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.init_from=later"], ["stages.debiased.init_from", "later"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: later}"], ["stages.debiased.uses.x", "later"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: debiased}"], ["stages.debiased.uses.x", "biased"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.uses={x: biased}"], ["uses", "x", "DebiasedModule"]),
        (
            ["fit", "--config={MINIATURE}", "--model=LfF", "--stages.debiased.uses={ensemble: biased}"],
            ["model.agreement", "3"],
        ),
        (["fit", "--config={MINIATURE}", "--model=JTT"], ["uses", "identification"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.repeat=0"], ["stages.debiased.repeat", "0"]),
        (["fit", "--config={MINIATURE}", "--stages.biased.repeat=2"], ["stages.biased.repeat", "one fit"]),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.trainer={epochs: 1}"],
            ["stages.debiased.trainer.epochs"],
        ),
        (["fit", "--config={MINIATURE}", "--stages.debiased.trainer={precision: fp16}"], ["trainer: ", "fp16"]),
        (["fit", "--config={MINIATURE}", "--stages.debiased.max_epochs=-3"], ["stages.debiased.max_epochs", "-3"]),
        (["fit", "--config={MINIATURE}", "--stages.debiasd.max_epochs=3"], ["stages.debiasd", "biased, debiased"]),
        (["fit", "--config={MINIATURE}", "--stages.biased.synthesize=no"], ["stages.debiased.data=both", "real"]),
        (["fit", "--config={MINIATURE}", "--model.num_classes=3"], ["model.num_classes is 3", "8 classes"]),
        (["fit", "--config={MINIATURE}", "--biased.num_classes=3"], ["biased.num_classes is 3", "8 classes"]),
        (["fit", "--config={MINIATURE}", "--biased.lr=-1"], ["biased.lr, biased.optimizer or biased.scheduler"]),
        (
            ["fit", "--config=assets/text2image.yaml", "--data.train_size=64", "--model.text_dropout=2"],
            ["error: model.text_dropout must lie in [0, 1), but is 2.0"],
        ),
        (["fit", "--config={MINIATURE}", "--model.backbone=vit_b_16"], ["vit_b_16", "32 pixels", "data.image_size"]),
        (["fit", "--config={MINIATURE}", "--model.backbone=inception_v3"], ["inception_v3", "backbone"]),
        (["fit", "--config={MINIATURE}", "--model.lr=-1"], ["model.lr", "-1"]),
        (["fit", "--config={MINIATURE}", "--synthesize.generator.scheduler=Foo"], ["generator.scheduler", "Foo"]),
        (["fit", "--config={MINIATURE}", "--trainer.accelerator=foo"], ["trainer: ", "foo"]),
        (
            [
                "fit",
                "--config={MINIATURE}",
                "--data.mixing=batch",
                "--data.synthetic_share=0.05",
                "--stages.debiased.batch_size=8",
            ],
            ["stages.debiased.batch_size", "8"],
        ),
        (["fit", "--config={MINIATURE}", "--trainer.max_epochs=-5"], ["trainer.max_epochs", "-5"]),
        (["fit", "--config={MINIATURE}", "--trainer.limit_train_batches=2.5"], ["trainer: ", "limit_train_batches"]),
        (["fit", "--config={MINIATURE}", "--trainer.check_val_every_n_epoch=0"], ["check_val_every_n_epoch", "0"]),
        (["fit", "--config={MINIATURE}", "--seed_everything=-3"], ["seed_everything", "-3"]),
        (["fit", "--config={MINIATURE}", "--seed_everything=true"], ["seed_everything", "True"]),
        (["fit", "--config={MINIATURE}", "--trainer.limit_test_batches=0"], ["trainer.limit_test_batches", "1"]),
        (["fit", "--config={MINIATURE}", "--trainer.default_root_dir=x"], ["trainer.default_root_dir", "--run_dir"]),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.trainer={logger: TensorBoard}"],
            ["stages.debiased.trainer.logger", "class_path"],
        ),
        (["test", "--config={MINIATURE}", "--ckpt_path=nope.ckpt"], ["ckpt_path", "nope.ckpt"]),
        (["fit", "--config={MINIATURE}", "--data.conflict_ratio=5"], ["data.conflict_ratio", "0.05"]),
        (["fit", "--config={MINIATURE}", "--synthesize.top_k=0"], ["synthesize.top_k"]),
        (["fit", "--config={MINIATURE}", "--synthesize.top_k=100000"], ["synthesize.top_k=100000", "lower it"]),
        (["fit", "--config={MINIATURE}", "--synthesize.images=0"], ["synthesize.images"]),
        (["fit", "--config={MINIATURE}", "--synthesize.captioner=null"], ["synthesize.captioner"]),
        (["fit", "--config={MINIATURE}", "--synthesize.reuse=no/such"], ["synthesize.reuse", "no/such"]),
        (["fit", "--config={MINIATURE}", "--ckpt_path=some.ckpt"], ["ckpt_path"]),
        (["fit", "--config={MINIATURE}", "--trainer.max_time=00:00:00:01"], ["trainer.max_time"]),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.init_from=biased", "--model.backbone=resnet18"],
            ["stages.debiased.init_from", "smallresnet", "resnet18"],
        ),
        (
            ["fit", "--config={MINIATURE}", "--stages.debiased.init_from=biased", "--model=lightning_modules.DisEnt"],
            ["stages.debiased.init_from", "network of biased (BiasedModule)", "DisEnt"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--stages.amplifier.init_from=diffusion"],
            ["stages.amplifier.init_from", "model of diffusion (ClassDiffusion)", "Vanilla"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--stages.diffusion.synthesize=start"],
            ["before ClassDiffusion has learnt anything"],
        ),
        (
            [
                "fit",
                "--config=configs/miniature_ddb_1.yaml",
                "--stages.diffusion.synthesize=no",
                "--stages.amplifier.synthesize=end",
                "--stages.amplifier.data=real",
            ],
            ["synthesize.generator.folder", "fitted Vanilla"],
        ),
        (
            ["fit", "--config=configs/miniature_ddb_1.yaml", "--diffusion.size=15"],
            ["diffusion.size=15", "multiple of 4"],
        ),
        (["fit", "--config=configs/miniature_usb.yaml", "--synthesize.images=aligned"], ["synthesize.images=aligned"]),
        (["test", "--config={MINIATURE}"], ["ckpt_path", "run fit to its end"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value[2:]) or value[0] if value[0] in ("fit", "test", "nonsense") else "",
)
def test_wrong_settings(words: list[str], parts: list[str], tmp_path: Path) -> None:
    words = [word.replace("{MINIATURE}", str(MINIATURE)) for word in words]
    run_dir = tmp_path / "run"
    outcome = call(*words, *([f"--run_dir={run_dir}"] if len(words) > 1 else []))
    assert_one_line(outcome, *parts)
    # refused before any work
    assert not (run_dir / "stages").exists()


def test_a_configuration_that_is_no_text_of_ours(tmp_path: Path) -> None:
    config = tmp_path / "latin.yaml"
    config.write_bytes("# grün\nseed_everything: 1\n".encode("latin-1"))
    assert_one_line(call("fit", f"--config={config}"), "--config", "not UTF-8")


def test_a_part_that_no_stage_fits_is_told(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = vanilla(small, tmp_path / "run", "--biased=lightning_modules.BiasedModule")
    outcome = call(*words)
    assert outcome.status == 0, outcome.err
    assert "biased: no stage of this chain fits it" in caplog.text


def test_early_stopping_that_watches_an_unknown_value(small: Small, tmp_path: Path) -> None:
    watch = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/acuracy"]
    assert_one_line(call(*vanilla(small, tmp_path, *watch)), "trainer.callbacks", "val/acuracy", "val/accuracy")


def test_processes_that_would_not_work_together(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(call(*vanilla(small, tmp_path)), "trainer.devices", "2 processes", "trainer.strategy=ddp")
    assert not (tmp_path / "stages").exists()


def test_missing_data_folder(small: Small, tmp_path: Path) -> None:
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}"]
    assert_one_line(call("fit", *words, f"--data.root={tmp_path / 'none'}"), "data.root", "none", "github.com")
    (tmp_path / "empty").mkdir()
    assert_one_line(call("fit", *words, f"--data.root={tmp_path / 'empty'}"), "data.root", "empty", "train")


def break_image(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "unreadable":
        path.write_text("this is no picture")
    else:
        for other in path.parent.glob("diving_*"):
            other.unlink()


@pytest.mark.parametrize(
    ("how", "workers", "parts"),
    [
        ("truncated", 0, ["diving_1.jpg", "replace the file or delete it"]),
        ("unreadable", 1, ["diving_1.jpg", "replace the file or delete it"]),
        ("no sample", 0, ["'diving'", "add images"]),
    ],
)
def test_bad_data(how: str, workers: int, parts: list[str], small: Small, tmp_path: Path) -> None:
    root = shutil.copytree(small.root("BAR"), tmp_path / "BAR")
    break_image(root / "train" / "diving_1.jpg", how)
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}"]
    outcome = call("fit", *words, f"--data.root={root}", f"--data.num_workers={workers}")
    assert_one_line(outcome, *parts)


def test_all_kinds_of_images(small: Small, tmp_path: Path) -> None:
    """Grayscale, CMYK, palette and turned pictures go through the whole chain."""
    root = shutil.copytree(small.root("BAR"), tmp_path / "BAR")
    for name, mode in (("diving_1", "L"), ("fishing_1", "CMYK")):
        file = root / "train" / f"{name}.jpg"
        Image.open(file).convert(mode).save(file)
    palette = root / "train" / "racing_1.jpg"
    Image.open(palette).convert("P").save(palette.with_suffix(".png"))
    palette.unlink()
    turned = root / "train" / "throwing_1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(turned).save(turned, exif=exif)
    words = [f"--config={BAR}", *small(BAR), f"--run_dir={tmp_path / 'run'}", f"--data.root={root}"]
    words += ["--biased.backbone=smallresnet", "--model.backbone=smallresnet"]
    outcome = call("fit", *words, "--synthesize.top_k=4", "--synthesize.images=1")
    assert outcome.status == 0, outcome.err


def test_top_k_beyond_a_class_warns(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ROOT / "configs/miniature_control.yaml"
    words = [f"--config={config}", *small(config), f"--run_dir={tmp_path}", "--synthesize.top_k=1000"]
    words += ["--data.mined_repeat=1"]
    outcome = call("fit", *words)
    assert outcome.status == 0, outcome.err
    assert "top_k 1000 exceeds the 20 images of class 0: the whole class is taken" in caplog.text
    assert len(json.loads((tmp_path / "synthetic/selection.json").read_text())["items"]) == 160


@pytest.mark.parametrize("part", ["captioner", "generator"])
@pytest.mark.parametrize("fault", ["no weights", "half the weights", "no folder", "hub id", "fetch without network"])
def test_wrong_model_is_noticed_before_the_fit(part: str, fault: str, small: Small, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model, download, remedy = str(folder), "false", "save the model there"
    if fault in ("no weights", "half the weights"):
        shutil.copytree(getattr(small, part), folder)
        weights = next(folder.rglob("*.safetensors"))
        if fault == "half the weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        else:
            for path in folder.rglob("*.safetensors"):
                path.unlink()
    elif fault == "no folder":
        remedy = "give an existing folder or a hub id"
    elif fault == "hub id":
        model, remedy = "nobody/nothing", f"set synthesize.{part}.download=true"
    else:
        model, download, remedy = "nobody/nothing", "true", "check the network"
    run_dir = tmp_path / "run"
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={run_dir}"]
    words += [f"--synthesize.{part}.model={model}", f"--synthesize.{part}.download={download}"]
    assert_one_line(call("fit", *words), f"synthesize.{part}.model", model, remedy)
    assert not (run_dir / "stages").exists()


def test_checkpoint_of_another_network(small: Small, reference: Path, tmp_path: Path) -> None:
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={tmp_path}", "--model.backbone=resnet18"]
    checkpoint = reference / "stages/02-debiased/checkpoints/last.ckpt"
    assert_one_line(call("test", *words, f"--ckpt_path={checkpoint}"), "backbone", "smallresnet", "resnet18")


def test_loss_that_is_not_a_number(small: Small, tmp_path: Path) -> None:
    words = [f"--config={MINIATURE}", *small(MINIATURE), f"--run_dir={tmp_path}"]
    assert_one_line(call("fit", *words, "--biased.lr=1e30"), "loss", "epoch 0", "lr", "precision")
    assert not (tmp_path / "stages/01-biased/fit_done").exists()
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has no room for a checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(small: Small, full_disk: Path) -> None:
    words = [f"--config={VANILLA}", *small(VANILLA), f"--run_dir={full_disk / 'run'}"]
    assert_one_line(call("fit", *words), str(full_disk), "run the same command again")
    subprocess.run(["mount", "-o", "remount,size=30m", full_disk], check=True)
    outcome = call("fit", *words)
    assert outcome.status == 0, outcome.err
