import copy
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules import ClassDiffusion, ConfigError, TrainingError
from lightning_modules.generative import pictures
from tests.lightning_modules import toy

TINY: dict[str, Any] = {
    "channels": (8, 16), "attention": (False, True), "layers_per_block": 1, "noise_steps": 50, "lr": 1e-3,
    "grid_images": 2, "grid_steps": 2,
}  # fmt: skip


class Data(toy.ToyData):
    """Images whose normalisation is known."""

    class_names = ("a", "b", "c")
    image_size = toy.SIZE
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    source = "real"


class Zero(nn.Module):
    def forward(self, image: Tensor, time: Tensor, label: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (torch.zeros_like(image),)


class Labels(Zero):
    """Remembers the classes that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor, time: Tensor, label: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.seen.append(label)
        return (torch.zeros_like(image, requires_grad=True),)


def make_trainer(folder: Path, epochs: int = 2, **options: Any) -> L.Trainer:
    options = {"enable_checkpointing": False, "logger": False, **options}
    return L.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **options,
    )  # fmt: skip


def fitted(folder: Path, epochs: int = 2, **settings: Any) -> ClassDiffusion:
    torch.manual_seed(1)
    module = ClassDiffusion(**{**TINY, **settings})
    make_trainer(folder, epochs).fit(module, datamodule=Data())
    return module


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_squared_error_of_noise_or_v(prediction: Any) -> None:
    module = ClassDiffusion(num_classes=3, size=8, prediction=prediction, noise_schedule="linear")
    image, noise = torch.randn(2, 4, 3, 8, 8)
    time = torch.tensor([0, 100, 500, 999])
    alpha = torch.linspace(1e-4, 0.02, 1000).sub(1).neg().cumprod(0)[time][:, None, None, None]
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * image
    target = noise if prediction == "epsilon" else v
    loss = module._loss(Zero(), image, torch.zeros(4).long(), noise, time)
    torch.testing.assert_close(loss, target.square().mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_class_is_dropped_now_and_then(share: float) -> None:
    module = ClassDiffusion(num_classes=3, size=8, class_dropout=share)
    module.trainer = make_trainer(Path())
    module.trainer.datamodule = Data()  # type: ignore[attr-defined]
    network = Labels()
    module.unet = network
    label = torch.arange(3).repeat(400)
    module.training_step({"image": torch.zeros(1200, 3, 8, 8), "label": label}, 0)
    (seen,) = network.seen
    dropped = seen == 3
    assert bool((seen[~dropped] == label[~dropped]).all())
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("size", [16, 8])
def test_pictures_are_what_was_normalised(size: int) -> None:
    module = ClassDiffusion(num_classes=3, size=size)
    module.trainer = make_trainer(Path())
    module.trainer.datamodule = data = Data()  # type: ignore[attr-defined]
    original = torch.rand(2, 3, 16, 16)
    original[:, :, :8] = original[:, :, :1, :1]  # one colour, which reducing keeps
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    found = pictures(module, {"image": (original - mean) / std}, size)
    assert found.shape == (2, 3, size, size)
    torch.testing.assert_close(found[..., 0, 0], 2 * original[..., 0, 0] - 1)
    assert float(found.abs().max()) <= 1 + 1e-5


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    """After step s the average takes 1 - min(ema, s / (9 + s)) of the new weights."""

    class Recorder(L.Callback):
        def __init__(self) -> None:
            self.weights: list[Tensor] = []

        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.weights.append(self.read(pl_module))

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            self.weights.append(self.read(pl_module))

        @staticmethod
        def read(module: L.LightningModule) -> Tensor:
            return module.get_submodule("unet").conv_in.weight.detach().clone()  # type: ignore[union-attr,operator]

    torch.manual_seed(1)
    recorder, module = Recorder(), ClassDiffusion(**TINY, ema=0.3)
    make_trainer(tmp_path, callbacks=[recorder]).fit(module, datamodule=Data())
    start, *steps = recorder.weights
    assert len(steps) == 12
    expected = start
    for number, weight in enumerate(steps, 1):
        decay = min(0.3, number / (9 + number))
        expected = decay * expected + (1 - decay) * weight
    average: Any = module.average
    torch.testing.assert_close(average.conv_in.weight, expected)
    assert not torch.allclose(expected, steps[-1], atol=1e-6)
    assert all(not parameter.requires_grad for parameter in average.parameters())


def test_an_accumulated_step_moves_the_average_once(tmp_path: Path) -> None:
    module = ClassDiffusion(**TINY)
    moves: list[int] = []

    def record(decay: float) -> Any:
        moves.append(module.global_step)
        return lambda *_: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.generative.get_ema_multi_avg_fn", record)
        make_trainer(tmp_path, 1, accumulate_grad_batches=3).fit(module, datamodule=Data())
    assert moves == [1, 2]


def test_it_learns_and_draws(tmp_path: Path) -> None:
    class Curve(L.Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.losses.append(float(trainer.callback_metrics["val/loss"]))

    torch.manual_seed(1)
    curve, module = Curve(), ClassDiffusion(**TINY, ema=0.9)
    trainer = make_trainer(tmp_path, 6, callbacks=[curve], num_sanity_val_steps=0)
    trainer.fit(module, datamodule=Data())
    assert len(curve.losses) == 6
    assert curve.losses[-1] < 0.8 * curve.losses[0]
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in pictures] == [f"epoch-{epoch:04d}.png" for epoch in range(6)]
    with Image.open(pictures[-1]) as grid:
        assert grid.size == (2 * (64 + 2) + 2, 3 * (64 + 2) + 2)
        assert max(high - low for low, high in grid.getextrema()) > 50  # type: ignore[misc]


def test_drawing_the_grid_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    module = fitted(tmp_path, 1)
    state = torch.random.get_rng_state()
    module.draw_grid()
    assert torch.equal(state, torch.random.get_rng_state())


def test_no_grid_if_none_is_wanted(tmp_path: Path) -> None:
    fitted(tmp_path, 1, grid_images=0)
    assert not (tmp_path / "samples").exists()


def test_diffusers_reads_what_was_exported(tmp_path: Path) -> None:
    module = fitted(tmp_path, 1, prediction="v_prediction")
    module.export(tmp_path / "model", Data())
    unet: Any = UNet2DModel
    loaded = unet.from_pretrained(tmp_path / "model", subfolder="unet", use_safetensors=True)
    average: Any = module.average
    for (name, ours), theirs in zip(average.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    schedule: Any = DDPMScheduler
    assert schedule.from_pretrained(tmp_path / "model", subfolder="scheduler").config.prediction_type == "v_prediction"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "0 a, 1 b, 2 c" in card
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.rglob("*.bin"))


def test_a_checkpoint_brings_the_network_and_its_average_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = ClassDiffusion(**TINY)
    trainer = make_trainer(tmp_path, 1, enable_checkpointing=True)
    trainer.fit(module, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    again = ClassDiffusion(**TINY)
    again.on_load_checkpoint(content)
    again.load_state_dict(content["state_dict"])
    for (name, ours), theirs in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with pytest.raises(ConfigError, match=r"diffusion\.prediction"):
        ClassDiffusion(**TINY, prediction="v_prediction").on_load_checkpoint(content)
    other = ClassDiffusion(**TINY)
    other.stage_name = "other"
    with pytest.raises(ConfigError, match="stage 'mine'"):
        other.on_load_checkpoint({**content, "diffubias_stage": "mine"})


def test_gradient_checkpointing_changes_nothing_but_the_memory(tmp_path: Path) -> None:
    plain, sparing = (fitted(tmp_path / str(flag), 1, gradient_checkpointing=flag) for flag in (False, True))
    unet: Any = sparing.unet
    assert unet.is_gradient_checkpointing
    for ours, theirs in zip(plain.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, r"diffusion\.size=15"),
        ({"attention": (False,)}, r"diffusion\.channels has 2"),
        ({"class_dropout": 1.0}, r"diffusion\.class_dropout"),
        ({"ema": 1.0}, r"diffusion\.ema"),
        ({"grid_steps": 51}, r"diffusion\.grid_steps"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassDiffusion(**{**TINY, **settings}).check_fit(Data())


@pytest.mark.parametrize("channels", [(48, 96), (5, 10), (64, 128)])
def test_any_width_will_do(channels: tuple[int, ...]) -> None:
    module = ClassDiffusion(num_classes=2, size=8, channels=channels, attention=(False, False), layers_per_block=1)
    module.configure_model()
    assert module.unet is not None
    assert module.unet(torch.zeros(1, 3, 8, 8), 3, torch.tensor([2])).sample.shape == (1, 3, 8, 8)


def test_without_data_the_sizes_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"diffusion\.num_classes"):
        ClassDiffusion(**TINY).configure_model()
    module = ClassDiffusion(**TINY, num_classes=2, size=8)
    module.configure_model()
    unet = copy.deepcopy(module.unet)
    module.configure_model()
    assert isinstance(unet, UNet2DModel)


def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path) -> None:
    class Broken(Data):
        def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
            self.train.samples[0]["image"][:] = float("nan")
            return super().train_dataloader()

    with pytest.raises(TrainingError, match=r"diffusion\.lr"):
        make_trainer(tmp_path).fit(ClassDiffusion(**TINY), datamodule=Broken())
