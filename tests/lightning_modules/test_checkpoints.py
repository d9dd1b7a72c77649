from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from callbacks.stage import load_trained
from lightning_modules import BiasedModule, Classifier, ConfigError, DebiasedModule
from tests.datamodules.toy import Pictures
from tests.fitting import make_trainer
from tests.lightning_modules.toy import CLI_FLAGS, MLP, SIZE, ToyData, fitted

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


def test_checkpoint_holds_plain_values_and_loads(tmp_path: Path) -> None:
    model = BiasedModule(backbone="smallresnet", q=0.6, optimizer=torch.optim.AdamW)
    model.stage_name = "biased"
    trainer = fitted(tmp_path, model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["diffubias_stage"] == "biased"
    assert content["hyper_parameters"] == {
        "num_classes": 3,
        "backbone": "smallresnet",
        "weights": None,
        "small_images": False,
        "backbone_args": None,
        "lr": 1e-3,
        "scheduler_interval": "epoch",
        "select_by": "accuracy",
        "head_only": False,
        "freeze_bn": False,
        "q": 0.6,
        "weighted_gce": False,
    }
    loaded = BiasedModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    image = torch.randn(2, 3, SIZE, SIZE)
    assert loaded.hparams["q"] == 0.6
    torch.testing.assert_close(loaded.eval()(image), model.eval()(image))


def test_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    model = BiasedModule(backbone="smallresnet")
    model.stage_name = "biased"
    fitted(tmp_path, model).save_checkpoint(tmp_path / "a.ckpt")
    other = DebiasedModule(backbone="smallresnet")
    other.stage_name = "debiased"
    with pytest.raises(ConfigError, match=r"stage 'biased', not to 'debiased'"):
        make_trainer(tmp_path).test(other, datamodule=ToyData(), ckpt_path=tmp_path / "a.ckpt")
    other.stage_name = ""
    make_trainer(tmp_path).test(other, datamodule=ToyData(), ckpt_path=tmp_path / "a.ckpt", verbose=False)


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path, Classifier(backbone="smallresnet")).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=r"model\.backbone smallresnet.*this run resnet18"):
        make_trainer(tmp_path).test(
            Classifier(backbone="resnet18"), datamodule=ToyData(), ckpt_path=tmp_path / "a.ckpt"
        )


def test_checkpoint_with_other_arguments_of_the_backbone_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, limit_train_batches=1)
    trainer.fit(Classifier(**MLP), datamodule=Pictures())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = Classifier(**{**MLP, "backbone_args": {"hidden": [9], "image_size": 16}})
    with pytest.raises(ConfigError, match=r"model\.backbone_args \{'hidden': \[8\].*this run \{'hidden': \[9\]"):
        make_trainer(tmp_path).test(other, datamodule=Pictures(), ckpt_path=tmp_path / "a.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


class Renamed(Pictures):
    """The same pictures with the first class renamed, which by name then comes last."""

    class_names = ("b", "c", "d")


def test_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, limit_train_batches=1)
    trainer.fit(Classifier(**MLP), datamodule=Pictures())
    file = tmp_path / "a.ckpt"
    trainer.save_checkpoint(file)
    words = r"knows the classes a, b, c, but data has b, c, d: give the data"
    for command in (trainer.validate, trainer.test, trainer.predict):
        with pytest.raises(ConfigError, match=words):
            command(Classifier(**MLP), datamodule=Renamed(), ckpt_path=file)
    with pytest.raises(ConfigError, match=words):
        make_trainer(tmp_path, 2).fit(Classifier(**MLP), datamodule=Renamed(), ckpt_path=file)
    # without data, as where a later stage uses the module, there is nothing to compare
    load_trained(Classifier(**MLP), file)
    content = torch.load(file, weights_only=True)
    assert content.pop("diffubias_classes") == ["a", "b", "c"]
    torch.save(content, file)  # one that was written before names were kept
    trainer.test(Classifier(**MLP), datamodule=Renamed(), ckpt_path=file, verbose=False)


def test_pretrained_weights_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    model = Classifier(num_classes=3, backbone="mobilenet_v3_small", weights="checkpoint:DEFAULT")
    model.hparams["weights"] = "DEFAULT"
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    again = Classifier(**checkpoint["hyper_parameters"])
    again.configure_model()
    again.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["weights"] == "checkpoint:DEFAULT"
    assert not (tmp_path / "nowhere").exists()


def test_classes_come_from_the_checkpoint_if_nothing_else_says() -> None:
    checkpoint: dict[str, Any] = {}
    Classifier(num_classes=3, backbone="smallresnet").on_save_checkpoint(checkpoint)
    model = Classifier(backbone="smallresnet")
    model.on_load_checkpoint(checkpoint)
    assert model(torch.randn(2, 3, SIZE, SIZE)).shape == (2, 3)


def test_classes_known_nowhere_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.num_classes"):
        Classifier().configure_model()


@pytest.mark.parametrize("support", [False, True])
def test_checkpoint_made_through_the_command_line_loads(
    tmp_path: Path, support: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    cli = LightningCLI(
        BiasedModule,
        ToyData,
        run=False,
        args=[
            *CLI_FLAGS,
            "--model.backbone=smallresnet",
            "--model.q=0.5",
            "--trainer.accelerator=cpu",
            "--trainer.fast_dev_run=true",
            "--trainer.enable_progress_bar=false",
        ],
        auto_configure_optimizers=False,
        save_config_callback=None,
        load_from_checkpoint_support=support,
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = BiasedModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.hparams["q"] == 0.5
    assert loaded.num_classes == 3
