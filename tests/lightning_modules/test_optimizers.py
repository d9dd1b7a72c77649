from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI, ReduceLROnPlateau

from lightning_modules import BiasedModule, Classifier, ConfigError, DebiasedModule
from tests.lightning_modules.toy import CLI_FLAGS, ToyData, fitted

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


def sgd_with_its_own_rate(parameters: Any, lr: float = 5.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def test_lr_wins() -> None:
    model = Classifier(num_classes=3, backbone="smallresnet", lr=0.25, optimizer=sgd_with_its_own_rate)
    model.configure_model()
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_wrong_lr_is_a_clear_error() -> None:
    model = Classifier(num_classes=3, backbone="smallresnet", lr=-1.0)
    model.configure_model()
    with pytest.raises(ConfigError, match=r"model\.lr"):
        model.configure_optimizers()


def halve_on_plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, monitor="train/loss")


def cosine(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)


def test_schedulers(tmp_path: Path) -> None:
    fitted(tmp_path / "plateau", Classifier(backbone="smallresnet", scheduler=halve_on_plateau))
    trainer = fitted(tmp_path, Classifier(backbone="smallresnet", scheduler=cosine))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5e-3)


def test_plateau_of_torch_watches_what_falls(tmp_path: Path) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)

    module = Classifier(backbone="smallresnet", scheduler=plateau)
    trainer = fitted(tmp_path, module)
    assert trainer.lr_scheduler_configs[0].monitor == "train/loss"


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.5e-3), (2, 0.0)])
def test_scheduler_that_counts_steps(tmp_path: Path, steps: int, rate: float) -> None:
    model = Classifier(backbone="smallresnet", scheduler=cosine, scheduler_interval="step")
    trainer = fitted(tmp_path, model, limit_train_batches=steps)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("module", [Classifier, BiasedModule, DebiasedModule])
def test_command_line_reaches_optimizer_and_scheduler(
    module: type[Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    cli = LightningCLI(
        module,
        ToyData,
        run=False,
        args=[*CLI_FLAGS, "--model.backbone=smallresnet", "--trainer.accelerator=cpu"],
        auto_configure_optimizers=False,
        save_config_callback=None,
    )
    model = cli.model
    model.trainer = cli.trainer
    cli.trainer.datamodule = cli.datamodule  # type: ignore[attr-defined]
    model.configure_model()
    settings: Any = model.configure_optimizers()
    assert type(settings["optimizer"]) is torch.optim.AdamW
    assert settings["optimizer"].param_groups[0]["weight_decay"] == 1e-2
    assert settings["optimizer"].param_groups[0]["initial_lr"] == 0.02
    assert settings["lr_scheduler"]["scheduler"].T_max == 10
