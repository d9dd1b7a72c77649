from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from callbacks import StageCallback
from callbacks.stage import BestCheckpoint, LastCheckpoint, load_trained
from lightning_modules import BiasedModule, ConfigError, DebiasedModule
from tests.callbacks.toy import ToyClassifier, ToyData


class Draws(ToyClassifier):
    """Remembers a random number of every epoch, and may stop by itself."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.drawn: dict[int, float] = {}
        self.stop_after = stop_after

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.drawn.setdefault(self.current_epoch, float(torch.rand(())))
        if self.current_epoch == self.stop_after:
            self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)


def fit(module: pl.LightningModule, callback: StageCallback, epochs: int = 3, **options: Any) -> pl.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", devices=1, logger=False, limit_train_batches=2,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, ToyData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_an_epoch_draws_the_same_after_a_resume(tmp_path: Path) -> None:
    whole, first, rest = Draws(), Draws(), Draws()
    fit(whole, StageCallback(tmp_path / "whole", 5))
    trainer = fit(first, StageCallback(tmp_path / "first", 5), epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.rand(100)
    fit(rest, StageCallback(tmp_path / "rest", 5), ckpt_path=tmp_path / "last.ckpt")
    assert first.drawn | rest.drawn == whole.drawn
    assert sorted(rest.drawn) == [1, 2]
    for ours, theirs in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    modules = Draws(), Draws()
    for seed, module in enumerate(modules):
        fit(module, StageCallback(tmp_path / str(seed), seed))
    values = [value for module in modules for value in module.drawn.values()]
    assert len(set(values)) == 6


def saving(module: pl.LightningModule, folder: Path, *callbacks: pl.Callback, **options: Any) -> None:
    """Fit with a last checkpoint, from which the next fit in the folder goes on."""
    last = folder / "last.ckpt"
    trainer = pl.Trainer(
        **{"max_epochs": 3, "limit_train_batches": 2, **options},
        callbacks=[StageCallback(folder, 1), *callbacks, LastCheckpoint(folder)], accelerator="cpu", devices=1,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ToyData(), ckpt_path=last if last.exists() else None, weights_only=True)


def test_a_fit_that_was_over_trains_no_more(tmp_path: Path) -> None:
    saving(Draws(stop_after=0), tmp_path)
    (tmp_path / "fit_done").unlink()  # as if a kill had come between the checkpoint and the marker
    again = Draws()
    saving(again, tmp_path)
    # otherwise the two epochs that the first one left out would be made up for
    assert again.drawn == {}
    assert (tmp_path / "fit_done").exists()


class Judged(ToyClassifier):
    """Has metrics of known values, one an epoch, and may break down in one of them."""

    def __init__(self, values: list[float], fails_in: int | None = None, accuracies: list[float] | None = None) -> None:
        super().__init__()
        self.values = values
        self.fails_in = fails_in
        self.accuracies = accuracies

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.current_epoch == self.fails_in:
            raise ValueError("killed")
        self.log("value", self.values[self.current_epoch], on_step=False, on_epoch=True)
        if self.accuracies is not None:
            self.log("val/accuracy", self.accuracies[self.current_epoch], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def test_the_best_epoch_is_known_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    here, there, values = tmp_path / "here", tmp_path / "there", [0.3, 0.9, 0.5]
    with pytest.raises(ValueError, match="killed"):
        saving(Judged(values, fails_in=2), here, BestCheckpoint(here, "value"))
    here.rename(there)
    saving(Judged(values), there, BestCheckpoint(there, "value"))
    assert torch.load(there / "best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(there / "last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize(
    ("values", "accuracies", "chosen"),
    [
        ([0.0, 0.0, 0.0], [0.5, 0.9, 0.7], 1),
        ([0.0, 0.0, 0.0], [0.7, 0.9, 0.9], 1),
        ([0.0, 0.0, 0.0], None, 0),
        ([0.3, 0.2, 0.3], [0.6, 0.9, 0.7], 2),
        ([0.3, 0.2, 0.1], [0.6, 0.7, 0.8], 0),
        ([0.0, 0.1, 0.1], [0.9, 0.6, 0.5], 1),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_accuracy_decides_between_equal_epochs(
    tmp_path: Path, values: list[float], accuracies: list[float] | None, chosen: int, killed: bool
) -> None:
    if killed:
        with pytest.raises(ValueError, match="killed"):
            saving(Judged(values, 2, accuracies), tmp_path, BestCheckpoint(tmp_path, "value"))
    saving(Judged(values, accuracies=accuracies), tmp_path, BestCheckpoint(tmp_path, "value"))
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == chosen


def test_rehearsal_leaves_no_marker(tmp_path: Path) -> None:
    fit(Draws(), StageCallback(tmp_path, 1), fast_dev_run=True)
    assert not (tmp_path / "fit_done").exists()


def test_interrupted_fit_leaves_no_marker(tmp_path: Path) -> None:
    class Interrupted(Draws):
        def on_train_epoch_end(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(Interrupted(), StageCallback(tmp_path, 1))
    assert not (tmp_path / "fit_done").exists()


def trained(folder: Path, **settings: Any) -> tuple[BiasedModule, Path]:
    """A module with weights of its own, and its checkpoint."""
    module = BiasedModule(**{"num_classes": 2, "backbone": "smallresnet", **settings})
    module.stage_name = "first"
    module.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "first.ckpt")
    return module, folder / "first.ckpt"


def change(path: Path, **state: Tensor | None) -> None:
    """Add weights to a checkpoint, or take them out."""
    checkpoint = torch.load(path, weights_only=True)
    kept = {key: value for key, value in (checkpoint["state_dict"] | state).items() if value is not None}
    torch.save({**checkpoint, "state_dict": kept}, path)


def assert_equal(ours: pl.LightningModule, theirs: pl.LightningModule) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_starts_from_the_classifier_of_another(tmp_path: Path) -> None:
    source, checkpoint = trained(tmp_path)
    # a method's further networks are no part of what the next stage starts from
    change(checkpoint, **{"biased_network.weight": torch.ones(3), "average": torch.ones(5)})
    module = DebiasedModule(num_classes=2, backbone="smallresnet")
    fit(module, StageCallback(tmp_path, 1, checkpoint), epochs=0)
    assert_equal(module, source)


@pytest.mark.parametrize("fault", ["another network", "no network", "half a network", "no classifier"])
def test_weights_of_another_network_are_refused(fault: str, tmp_path: Path) -> None:
    source, checkpoint = trained(tmp_path, **({"num_classes": 3} if fault == "another network" else {}))
    names = [name for name in source.state_dict() if name.startswith("network.")]
    if fault in ("no network", "half a network"):
        change(checkpoint, **dict.fromkeys(names[: len(names) // (1 if fault == "no network" else 2)]))
    module = ToyClassifier() if fault == "no classifier" else DebiasedModule(num_classes=2, backbone="smallresnet")
    with pytest.raises(ConfigError, match=r"init_from.*first\.ckpt.*same backbone"):
        fit(module, StageCallback(tmp_path, 1, checkpoint))


def test_a_trained_module_comes_back_ready_to_answer(tmp_path: Path) -> None:
    source, checkpoint = trained(tmp_path)
    change(checkpoint, **{"losses.average": torch.ones(5)})  # what only training has
    helper = load_trained(BiasedModule(backbone="smallresnet"), checkpoint)
    assert_equal(helper, source)
    assert not helper.training
    image = torch.rand(4, 3, 16, 16)
    assert torch.equal(helper(image), source.eval()(image))


def test_pretrained_weights_of_a_trained_module_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    source, checkpoint = trained(tmp_path, backbone="resnet18", weights="checkpoint:IMAGENET1K_V1")
    assert_equal(load_trained(BiasedModule(backbone="resnet18", weights="IMAGENET1K_V1"), checkpoint), source)
    assert not (tmp_path / "empty").exists()


def test_a_checkpoint_of_another_module_is_no_trained_module(tmp_path: Path) -> None:
    source, checkpoint = trained(tmp_path)
    with pytest.raises(ConfigError, match="backbone"):
        load_trained(BiasedModule(backbone="resnet18"), checkpoint)
    missing = list(source.state_dict())[-1]
    change(checkpoint, **{missing: None})
    with pytest.raises(ConfigError, match=rf"uses: .*first\.ckpt.*without {missing}"):
        load_trained(BiasedModule(backbone="smallresnet"), checkpoint)


@pytest.mark.parametrize(
    ("every", "options", "expected"),
    [
        (1, {"max_epochs": 3}, [1, 2, 3]),
        (2, {"max_epochs": 5}, [2, 4, 5]),
        (9, {"max_epochs": 3}, [3]),
        (9, {"max_steps": 5, "max_epochs": -1}, [3]),
    ],
)
def test_a_checkpoint_comes_now_and_then_and_at_the_end(
    tmp_path: Path, every: int, options: dict[str, int], expected: list[int]
) -> None:
    written: list[int] = []

    class Watched(LastCheckpoint):
        def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
            written.append(trainer.current_epoch + 1)
            super()._save_checkpoint(trainer, filepath)

    trainer = pl.Trainer(
        callbacks=[Watched(tmp_path, every)], accelerator="cpu", devices=1, logger=False, limit_train_batches=2,
        enable_progress_bar=False, enable_model_summary=False, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    trainer.fit(ToyClassifier(), ToyData())
    assert written == expected
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_fit_that_ends_early_has_its_last_checkpoint(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        max_epochs=9, callbacks=[LastCheckpoint(tmp_path, 9)], accelerator="cpu", devices=1, logger=False,
        limit_train_batches=2, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Draws(stop_after=3), ToyData())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 3
