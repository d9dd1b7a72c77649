"""Fitting of FastGAN, StyleGAN2 and the adapted one, on toy data."""

import math
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules import AdaptedGAN, ConfigError, FastGAN, StyleGAN2, TrainingError
from lightning_modules.gan import GAN, frozen, relative_spread, spread
from lightning_modules.gan_losses import path_lengths
from lightning_modules.gan_sampling import load_network
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer
from tests.lightning_modules.test_diffusion import Data

TINY: dict[str, Any] = {"latent": 8, "width": 2, "grid_images": 2, "ema": 0.9}
STYLE: dict[str, Any] = {**TINY, "style": 8, "mapping_layers": 1, "max_channels": 8, "r1_every": 2, "path_every": 3}


class Signals(L.Callback):
    """Keeps what is logged at the end of every epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fast(**settings: Any) -> GAN:
    torch.manual_seed(1)
    return FastGAN(**{**TINY, **settings})


def styled(**settings: Any) -> GAN:
    torch.manual_seed(1)
    return StyleGAN2(**{**STYLE, **settings})


def fitted(module: GAN, folder: Path, epochs: int = 1, **options: Any) -> GAN:
    make_trainer(folder, epochs, **{"enable_checkpointing": False, **options}).fit(module, datamodule=Data())
    return module


@pytest.fixture(name="source", scope="module")
def fitted_source(tmp_path_factory: pytest.TempPathFactory) -> StyleGAN2:
    module = fitted(styled(lr=5e-3), tmp_path_factory.mktemp("source"), 2)
    assert isinstance(module, StyleGAN2)
    return module.eval()


def new_source() -> StyleGAN2:
    """A source as each of two processes has it."""
    module = styled(num_classes=3, size=16)
    module.configure_model()
    assert isinstance(module, StyleGAN2)
    return module.eval()


def adapted(source: StyleGAN2, **settings: Any) -> AdaptedGAN:
    torch.manual_seed(2)
    module = AdaptedGAN(**{**TINY, "anchors": 3, "r1_every": 2, **settings})
    module.helpers = {"source": [source]}
    return module


@pytest.mark.parametrize("make", [fast, styled])
def test_a_loss_reaches_the_weights_of_its_own_player_only(make: Any) -> None:
    module = make(num_classes=3, size=8)
    module.configure_model()
    torch.manual_seed(0)
    turn = module.turn(torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    turn.discriminator.backward(retain_graph=True)
    assert all(own.grad is None for own in module.generator.parameters())
    assert all(own.grad is not None for own in module.discriminator.parameters())
    module.zero_grad()
    turn.generator.backward()
    assert all(own.grad is None for own in module.discriminator.parameters())
    assert all(own.grad is not None for own in module.generator.parameters())


def test_frozen_weights_thaw() -> None:
    layer = torch.nn.Linear(2, 2)
    with frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad


def test_the_spread_is_that_within_classes() -> None:
    image = torch.tensor([1.0, -1.0, 5.0, 5.0])[:, None, None, None].expand(4, 3, 2, 2)
    assert float(spread(image, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.5**0.5)
    assert float(spread(image, torch.arange(4))) == 0
    assert float(relative_spread(image, image, torch.arange(4))) == 1
    assert float(relative_spread(2 * image, image, torch.tensor([0, 0, 1, 1]))) == pytest.approx(2)
    alike = torch.zeros_like(image).requires_grad_()
    relative_spread(alike, image, torch.tensor([0, 0, 1, 1])).backward()  # type: ignore[no-untyped-call]
    assert alike.grad is not None
    assert alike.grad.isfinite().all()


def test_diversity_counts_what_the_spread_lacks() -> None:
    losses = []
    for weight in (0.0, 2.0):
        module = fast(num_classes=3, size=8, diversity=weight)
        module.configure_model()
        torch.manual_seed(0)
        real, label = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
        turn = module.turn(real, label)
        losses.append(float(turn.generator.detach()))
    assert losses[1] - losses[0] == pytest.approx(2 * (1 - float(relative_spread(turn.drawn.detach(), real, label))))
    with pytest.raises(ConfigError, match="diversity"):
        fast(diversity=-1.0)


@pytest.mark.parametrize("make", [fast, pytest.param(styled, marks=pytest.mark.slow)])
def test_it_learns_for_a_while_without_collapse(make: Any, tmp_path: Path) -> None:
    """Short training: numbers stay finite, the generator keeps drawing different images, nobody wins for good."""
    signals, module = Signals(), make(lr=5e-3)
    fitted(module, tmp_path, 8, callbacks=[signals], check_val_every_n_epoch=4)
    assert all(math.isfinite(value) for row in signals.rows for value in row.values())
    last = signals.rows[-1]
    assert last["train/spread"] > 0.1
    assert 0 < last["train/real_right"] + last["train/fake_right"] < 2
    assert {"train/generator", "train/discriminator", "train/real_score", "val/real_score"} <= set(last)
    assert ("train/r1" in last) == (make is styled)
    grids = sorted((tmp_path / "samples").iterdir())
    assert len(grids) == 2
    with Image.open(grids[-1]) as grid:
        assert grid.size == (2 * (64 + 2) + 2, 3 * (64 + 2) + 2)
    # the drawn images come nearer to the real ones in their mean
    module.export(tmp_path / "model", Data())
    network = load_network(tmp_path / "model")
    untrained = make(num_classes=3, size=16)
    untrained.configure_model()
    assert distance(network) < 0.85 * distance(untrained.finished())


def distance(network: Any) -> float:
    """How far the mean drawn image is from the mean real one."""
    from lightning_modules.gan_sampling import draw

    labels = torch.arange(96) % 3
    images = draw(network, labels, [torch.Generator().manual_seed(number) for number in range(96)])
    data = Data()
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    real = torch.stack([sample["image"] for sample in data.train.samples]) * std + mean
    return float((images.mean(dim=0) - real.mean(dim=0)).abs().mean())


def test_the_average_begins_with_the_weights_and_follows_them(tmp_path: Path) -> None:
    module = fitted(fast(ema=0.5), tmp_path)
    assert module.generator is not None
    assert module.average is not None
    differences = [
        float((one - other).abs().max().detach())
        for one, other in zip(module.generator.parameters(), module.average.parameters(), strict=True)
    ]
    assert 0 < max(differences) < 0.1
    assert not any(own.requires_grad for own in module.average.parameters())


def test_penalties_come_when_it_is_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    module = styled(num_classes=3, size=8, r1=3.0, r1_every=2, path_every=3)
    module.configure_model()
    image, label = torch.randn(4, 3, 8, 8), torch.arange(4) % 3
    weighed, found = module.discriminator_penalty(image, label)  # type: ignore[operator]
    torch.testing.assert_close(weighed, 3.0 / 2 * 2 * found["r1"])
    came = []
    for step in range(7):
        monkeypatch.setattr(StyleGAN2, "global_step", step)
        came.append(set(module.turn(image, label).further))
    assert came == [{"r1", "path"}, set(), {"r1"}, {"path"}, {"r1"}, set(), {"r1", "path"}]
    monkeypatch.setattr(StyleGAN2, "global_step", 0)
    module.hparams.update({"r1": 0.0, "path": 0.0})
    assert module.turn(image, label).further == {}


def test_the_path_penalty_is_the_spread_of_the_lengths_about_their_running_mean() -> None:
    module = styled(num_classes=3, size=8, path=2.0, path_every=3)
    module.configure_model()
    generator: Any = module.generator
    label, mean = torch.arange(8) % 3, 0.0
    for seed in range(2):
        torch.manual_seed(seed)
        weighed, found = module._path_penalty(label)  # type: ignore[operator]
        torch.manual_seed(seed)
        style = generator.spread_style(generator.styles(torch.randn(4, 8), label[:4])).contiguous()
        lengths = path_lengths(generator.synthesise(style)[0], style).detach()  # the same noise: of half of the batch
        mean = 0.99 * mean + 0.01 * float(lengths.mean())
        assert float(module.path_mean) == pytest.approx(mean, rel=1e-4)  # type: ignore[arg-type]
        assert float(found["path"].detach()) == pytest.approx(float((lengths - mean).square().mean()), rel=1e-4)
        torch.testing.assert_close(weighed, 2.0 * 3 * found["path"])


def test_a_mixed_style_changes_once() -> None:
    module = styled(num_classes=3, size=16, mixing=1.0)
    module.configure_model()
    generator: Any = module.generator
    label = torch.arange(64) % 3
    torch.manual_seed(5)
    mixed = module._mixed_styles(label)  # type: ignore[operator]
    torch.manual_seed(5)
    first, second = (generator.styles(own, label) for own in torch.randn(2, 64, 8))
    from_first = torch.isclose(mixed, first[:, None]).all(dim=2)
    assert torch.equal(~from_first, torch.isclose(mixed, second[:, None]).all(dim=2))
    changes = (from_first[:, 1:] != from_first[:, :-1]).sum(dim=1)
    assert from_first[:, 0].all()
    assert changes.tolist() == [1] * 64
    assert len(set(from_first.sum(dim=1).tolist())) == generator.num_layers - 1
    module.hparams["mixing"] = 0.0
    torch.manual_seed(5)
    torch.testing.assert_close(module._mixed_styles(label), first[:, None].expand_as(mixed))  # type: ignore[operator]


def test_statistics_are_settled_with_synchronised_batch_normalisation_too() -> None:
    module = fast(num_classes=3, size=8)
    module.configure_model()
    torch.manual_seed(0)
    expected = {name: value.clone() for name, value in module.finished().state_dict().items()}
    state = torch.get_rng_state()
    convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
    module.average = convert(module.average)
    found = module.finished().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    means = [name for name in found if name.endswith("running_mean")]
    assert means
    assert all(found[name].abs().sum() > 0 for name in means)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("make", [fast, styled])
def test_a_checkpoint_brings_all_back(make: Any, tmp_path: Path) -> None:
    module = make()
    trainer = make_trainer(tmp_path, 1, enable_checkpointing=True)
    trainer.fit(module, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    again = make()
    again.on_load_checkpoint(content)
    again.load_state_dict(content["state_dict"])
    for (name, ours), theirs in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with pytest.raises(ConfigError, match=r"gan\.width 2, but this run 4"):
        make(width=4).on_load_checkpoint(content)


def test_adaptation_starts_from_the_source_and_keeps_its_styles(source: StyleGAN2, tmp_path: Path) -> None:
    module, signals = adapted(source, width=64, distance=10.0, lr=5e-3), Signals()
    fitted(module, tmp_path, 2, callbacks=[signals])
    assert module.hparams["width"] == 2  # the source's
    before: Any = source.average
    after: Any = module.generator
    kept = ("mapping.", "embedding.")
    for name, value in before.state_dict().items():
        if name.startswith(kept):
            assert torch.equal(value, after.state_dict()[name]), name
    assert not torch.equal(before.constant, after.constant)
    assert all(math.isfinite(value) for row in signals.rows for value in row.values())
    assert signals.rows[0]["train/distance"] > 0
    assert not any(name.startswith("helpers") or "source" in name for name in module.state_dict())
    module.export(tmp_path / "model", Data())
    again = load_network(tmp_path / "model", "source-")
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in again.state_dict().items())


def test_without_training_the_likenesses_are_the_same(source: StyleGAN2) -> None:
    module = adapted(source, num_classes=3, size=16)
    module.configure_model()
    turn = module.turn(torch.randn(6, 3, 16, 16), torch.arange(6) % 3)
    assert float(turn.further["distance"].detach()) == pytest.approx(0, abs=1e-6)
    assert len(turn.fake) == 4  # whole images near an anchor: a group of the deviation, though a quarter would be 2


def test_an_adapted_gan_is_loaded_without_its_source(source: StyleGAN2, tmp_path: Path) -> None:
    module = adapted(source)
    trainer = make_trainer(tmp_path, 1, enable_checkpointing=True)
    trainer.fit(module, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    again = AdaptedGAN(width=64, anchors=3)
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    again.on_load_checkpoint(content)
    again.load_state_dict(content["state_dict"])
    assert again.hparams["width"] == 2
    assert torch.equal(again.state_dict()["anchors"], module.state_dict()["anchors"])


def test_mistakes_are_named(source: StyleGAN2) -> None:
    for settings, message in (
        ({"size": 28}, r"gan\.size=28 is no power of two"),
        ({"ema": 1.0}, r"gan\.ema"),
        ({"repeats": 0}, r"gan\.repeats"),
    ):
        with pytest.raises(ConfigError, match=message):
            fast(**settings).check_fit(Data())
    with pytest.raises(ConfigError, match="r1_every"):
        styled(r1_every=0)
    with pytest.raises(ConfigError, match="uses must hand over a source"):
        AdaptedGAN().check_fit(Data())
    with pytest.raises(ConfigError, match=r"adapted: anchors"):
        AdaptedGAN(anchors=0)
    synthetic = Data()
    synthetic.source = "synthetic"
    with pytest.raises(ConfigError, match="data must be real or mined"):
        adapted(source).check_fit(synthetic)
    with pytest.raises(ConfigError, match=r"gan\.num_classes is not set"):
        fast().configure_model()


def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path) -> None:
    class Broken(Data):
        def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
            self.train.samples[0]["image"][:] = float("nan")
            return super().train_dataloader()

    with pytest.raises(TrainingError, match=r"gan\.lr"):
        make_trainer(tmp_path, enable_checkpointing=False).fit(fast(), datamodule=Broken())


def train_one_of_two(rank: int, world_size: int, folder: Path, kind: str) -> dict[str, Tensor]:
    module = {"fast": fast, "styled": styled}[kind]() if kind != "adapted" else adapted(new_source())
    fitted(module, folder, 1, strategy="ddp", devices=2)
    # statistics of batch normalisation are those of a rank's own share until the next forward pass
    return {name: own.detach() for name, own in module.named_parameters()}


@pytest.mark.parametrize("kind", ["fast", "styled", "adapted"])
def test_two_processes_train_one_pair(kind: str, tmp_path: Path) -> None:
    first, second = run_ddp(as_launched, train_one_of_two, tmp_path, kind)
    assert set(first) == set(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
