from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from callbacks import StageCallback
from lightning_modules import ConfigError
from lightning_modules.backbones import scores_and_features
from lightning_modules.hsic import hsic, kernel, median_distance
from lightning_modules.losses import cross_entropy
from lightning_modules.rebias import ReBias
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer
from tests.lightning_modules.toy import ToyData, make_sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*self.trainer. reference is not registered"),
]

SMALL: dict[str, Any] = {
    "backbone": "simpleconv",
    "backbone_args": {"channels": [4, 8], "kernel_size": 3},
    "biased_backbone": "simpleconv",
    "biased_backbone_args": {"channels": [4, 6], "kernel_size": 1},
}


def built(**options: Any) -> ReBias:
    torch.manual_seed(0)
    model = ReBias(num_classes=3, **SMALL, **options)
    model.configure_model()
    return model


def make_batch(count: int = 10, start: int = 0) -> dict[str, Tensor]:
    samples = [make_sample(i, 3, 10, True) for i in range(start, start + count)]
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def both(model: ReBias, batch: dict[str, Tensor]) -> list[Tensor]:
    """Scores and features of the network, and those of the biased one."""
    found = []
    for name in ("network", "biased_network"):
        network = model.get_submodule(name)
        features = network.get_submodule("layers")(batch["image"]).mean(dim=(2, 3))
        found += [network.get_submodule("head")(features), features]
    return found


def medians(model: ReBias, batch: dict[str, Tensor]) -> Tensor:
    _, features, _, biased_features = both(model, batch)
    return torch.stack([median_distance(features), median_distance(biased_features)])


def test_features_are_what_the_last_layer_sees() -> None:
    model, batch = built(), make_batch()
    expected, features, *_ = both(model, batch)
    scores, seen = scores_and_features(model.get_submodule("network"), batch["image"], 3)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(seen, features)
    assert seen.shape == (10, 8)


def test_loss_is_both_cross_entropies_and_the_difference_of_the_dependences() -> None:
    model, batch = built(hsic_weight=2.0, biased_hsic_weight=0.5, kernel_width=0.8), make_batch()
    scores, features, biased_scores, biased_features = both(model, batch)
    logits, losses = model.training_losses(batch)
    torch.testing.assert_close(logits, scores)
    expected = cross_entropy(scores, batch["label"]) + cross_entropy(biased_scores, batch["label"])
    dependence = hsic(kernel(features, 0.8), kernel(biased_features, 0.8))
    assert dependence.item() > 1e-4
    torch.testing.assert_close(losses, expected + 1.5 * dependence)


def gradients(model: ReBias, name: str, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.get_submodule(name).parameters()), retain_graph=True))


def test_the_network_lessens_the_dependence_and_the_biased_one_raises_it() -> None:
    model, batch = built(hsic_weight=2.0, biased_hsic_weight=0.5), make_batch()
    scores, features, biased_scores, biased_features = both(model, batch)
    dependence, label = hsic(kernel(features, 1.0), kernel(biased_features, 1.0)), batch["label"]
    objective = cross_entropy(scores, label).mean() + 2.0 * dependence
    biased_objective = cross_entropy(biased_scores, label).mean() - 0.5 * dependence
    loss = model.training_step(batch, 0)
    for name, own in (("network", objective), ("biased_network", biased_objective)):
        ours, theirs = gradients(model, name, loss), gradients(model, name, own)
        torch.testing.assert_close(ours, theirs)
        # Without the dependence they would differ by far more than rounding.
        plain = gradients(model, name, cross_entropy(scores, label).mean() + cross_entropy(biased_scores, label).mean())
        assert max((a - b).abs().max().item() for a, b in zip(ours, plain, strict=True)) > 1e-4


def test_without_weight_each_network_learns_for_itself() -> None:
    model, batch = built(hsic_weight=0.0, biased_hsic_weight=0.0), make_batch()
    scores, _, biased_scores, _ = both(model, batch)
    expected = cross_entropy(scores, batch["label"]) + cross_entropy(biased_scores, batch["label"])
    torch.testing.assert_close(model.training_losses(batch)[1], expected)


@pytest.mark.parametrize("count", [2, 3])
def test_a_small_last_batch_has_no_dependence(count: int) -> None:
    model, batch = built(), make_batch(count)
    scores, _, biased_scores, _ = both(model, batch)
    _, losses = model.training_losses(batch)
    losses.mean().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        losses, cross_entropy(scores, batch["label"]) + cross_entropy(biased_scores, batch["label"])
    )
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dependence_is_computed_in_single_precision_under_autocast() -> None:
    model, batch = built(kernel_width="median"), make_batch()
    model.on_train_epoch_start()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = model.training_losses(batch)
    assert losses.dtype == torch.float32
    losses.mean().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_median_widths_are_those_of_the_first_batch_of_the_epoch() -> None:
    model = built(kernel_width="median", hsic_weight=3.0)
    first, second = make_batch(), make_batch(start=10)
    model.on_train_epoch_start()
    model.training_losses(first)
    torch.testing.assert_close(model.widths, medians(model, first))
    _, losses = model.training_losses(second)
    torch.testing.assert_close(model.widths, medians(model, first))
    scores, features, biased_scores, biased_features = both(model, second)
    expected = cross_entropy(scores, second["label"]) + cross_entropy(biased_scores, second["label"])
    widths = medians(model, first)
    dependence = hsic(kernel(features, widths[0]), kernel(biased_features, widths[1]))
    torch.testing.assert_close(losses, expected + 2 * dependence)
    model.on_train_epoch_start()
    model.training_losses(second)
    torch.testing.assert_close(model.widths, medians(model, second))


def test_only_measured_widths_are_in_the_checkpoint() -> None:
    assert "widths" in built(kernel_width="median").state_dict()
    assert "widths" not in built(kernel_width=0.5).state_dict()
    assert built(kernel_width=0.5).widths.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_kernels_without_width_are_refused(width: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.kernel_width must be above 0 or median"):
        ReBias(kernel_width=width)


def test_both_backbones_are_checked() -> None:
    ReBias(backbone="simpleconv").check(Pictures())
    with pytest.raises(ConfigError, match=r"backbone 'bagnet81' is unknown.*bagnet18"):
        ReBias(backbone="simpleconv", biased_backbone="bagnet81").check(Pictures())
    with pytest.raises(ConfigError, match="backbone_args wide mean nothing to 'bagnet18'"):
        ReBias(backbone="simpleconv", biased_backbone_args={"wide": 1}).check(Pictures())


# Training


def fitted(folder: Path, epochs: int, resume: Path | None = None) -> ReBias:
    L.seed_everything(0, verbose=False)
    trainer = make_trainer(folder, epochs, callbacks=[StageCallback(folder, 5)])
    model = ReBias(**SMALL, kernel_width="median", lr=1e-2)
    data = Pictures(train=(16, 8, 8), with_val=True)
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt", weights_only=False)
    assert {"train/hsic", "train/loss", "val/accuracy"} <= trainer.logged_metrics.keys()
    assert trainer.logged_metrics["train/hsic"].isfinite()
    return model


def test_a_broken_off_fit_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", 4)
    fitted(tmp_path / "half", 2)
    resumed = fitted(tmp_path / "rest", 4, tmp_path / "half" / "end.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_loads(tmp_path: Path) -> None:
    model = fitted(tmp_path, 1).eval()
    loaded = ReBias.load_from_checkpoint(tmp_path / "end.ckpt", weights_only=True).eval()
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(image), model(image))
    assert torch.equal(loaded.widths, model.widths)
    assert (model.widths != 1).all()


@pytest.mark.parametrize(("given", "expected"), [("median", "median"), ("0.5", 0.5)])
def test_command_line_reaches_all_settings(given: str, expected: str | float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    args = ["--model.backbone=simpleconv", "--model.biased_backbone=simpleconv", f"--model.kernel_width={given}"]
    args += ["--model.biased_backbone_args.kernel_size=1", "--model.hsic_weight=2", "--trainer.accelerator=cpu"]
    cli = LightningCLI(ReBias, ToyData, run=False, args=args, auto_configure_optimizers=False)
    assert cli.model.hparams["kernel_width"] == expected
    assert cli.model.hparams["hsic_weight"] == 2
    assert cli.model.hparams["biased_backbone_args"] == {"kernel_size": 1}


def fit_share(rank: int, world_size: int, folder: Path) -> tuple[list[Tensor], Tensor, Tensor]:
    """The weights after a fit; the own medians of a batch, and the widths that follow."""
    L.seed_everything(0, verbose=False)
    options: dict[str, Any] = {"devices": world_size, "strategy": "ddp", "num_sanity_val_steps": 0}
    trainer = make_trainer(folder, 2, callbacks=[StageCallback(folder, 5)], **options)
    fit = ReBias(**SMALL, kernel_width="median", lr=1e-2)
    trainer.fit(fit, datamodule=Pictures(train=(16, 8, 8), with_val=True, batch_size=4))
    model, batch = built(kernel_width="median"), make_batch(start=10 * rank)
    model.on_train_epoch_start()
    model.training_losses(batch)
    return [p.detach().clone() for p in fit.parameters()], medians(model, batch), model.widths


def test_two_processes_agree(tmp_path: Path) -> None:
    (first, *ours), (second, *theirs) = run_ddp(as_launched, fit_share, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for widths in (ours[1], theirs[1]):
        torch.testing.assert_close(widths, (ours[0] + theirs[0]) / 2)
    assert not torch.allclose(ours[0], theirs[0])
