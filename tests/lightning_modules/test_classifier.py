from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_modules import Classifier, ConfigError, GroupTable, TrainingError
from tests.datamodules.toy import Pictures, Unlabelled
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer
from tests.lightning_modules.toy import MLP, SIZE, ToyData, fitted

KEYS = {"accuracy", "worst_class", "aligned", "conflict", "worst_group", "balanced"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


def test_fit_and_test_in_bf16_learn_and_log(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max")
    model = Classifier(backbone="smallresnet", lr=3e-3)
    trainer = fitted(tmp_path, model, epochs=4, precision="bf16-mixed", callbacks=[best])
    logged = trainer.logged_metrics
    assert {f"val/{key}" for key in KEYS} | {"train/loss", "train/accuracy"} == set(logged)
    assert logged["val/accuracy"] > 0.6
    assert model.hparams["num_classes"] == 3
    (values,) = trainer.test(model, datamodule=ToyData(), ckpt_path="best", verbose=False)
    assert {f"test/{key}" for key in KEYS} == set(values)
    assert best.best_model_score is not None
    assert values["test/accuracy"] == pytest.approx(best.best_model_score.item())
    assert model.test_metrics.groups().count.sum() == 37


def test_weights_and_activations_are_channels_last() -> None:
    model = Classifier(num_classes=3, backbone="smallresnet")
    model.configure_model()
    assert model.network is not None
    seen: list[Tensor] = []
    model.network.get_submodule("blocks").register_forward_hook(lambda *given: seen.append(given[2]))
    model(torch.randn(4, 3, SIZE, SIZE))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.network.parameters() if p.ndim == 4)


def test_network_is_built_once_and_on_the_cpu() -> None:
    model = Classifier(num_classes=3, backbone="smallresnet")
    assert model.network is None
    with torch.device("meta"):
        model.configure_model()
    network = model.network
    model.configure_model()
    assert model.network is network
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_data_without_bias_labels(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    (values,) = trainer.test(Classifier(backbone="smallresnet"), datamodule=ToyData(known=False), verbose=False)
    assert set(values) == {"test/accuracy", "test/worst_class"}


def test_predictions(tmp_path: Path) -> None:
    batches = make_trainer(tmp_path, precision="bf16-mixed").predict(
        Classifier(backbone="smallresnet"), datamodule=ToyData()
    )
    assert batches is not None
    index = torch.cat([batch["index"] for batch in batches])  # type: ignore[call-overload]
    probability = torch.cat([batch["probability"] for batch in batches])  # type: ignore[call-overload]
    assert index.tolist() == list(range(37))
    assert probability.dtype == torch.float32
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(37))


@pytest.mark.parametrize(("backbone", "width"), [("smallresnet", 128), ("resnet18", 512), ("squeezenet1_1", 512)])
def test_features_are_what_the_head_sees(backbone: str, width: int) -> None:
    model = Classifier(num_classes=3, backbone=backbone).eval()
    image = torch.randn(2, 3, 64, 64)
    features = model.features(image)
    assert features.shape == (2, width)
    if backbone == "smallresnet":
        assert model.network is not None
        torch.testing.assert_close(model.network.get_submodule("head")(features), model(image))


class OneClass(Classifier):
    """A method that learns from class 0 alone."""

    def training_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, losses = super().training_losses(batch)
        return logits, losses * (batch["label"] == 0)


def standing_still(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def test_a_method_brings_its_own_losses(tmp_path: Path) -> None:
    model = OneClass(**{**MLP, "optimizer": standing_still})
    trainer = make_trainer(tmp_path)
    trainer.fit(model, datamodule=Pictures(augment="none"))
    batches = list(Pictures(augment="none").mining_dataloader(0, 1))
    logits = torch.cat([model(batch["image"]) for batch in batches]).detach()
    label = torch.cat([batch["label"] for batch in batches])
    losses = torch.nn.functional.cross_entropy(logits, label, reduction="none") * (label == 0)
    assert trainer.logged_metrics["train/loss"].item() == pytest.approx(losses.mean().item())
    right = (logits.argmax(dim=1) == label).float().mean().item()
    assert trainer.logged_metrics["train/accuracy"].item() == pytest.approx(right)


def test_the_test_set_is_watched_on_request_and_nothing_is_selected_by_it(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max")
    logged = []
    for watch in (True, False):
        L.seed_everything(0, verbose=False)
        model, data = Classifier(**MLP), Pictures(watch_test=watch, with_val=True)
        trainer = make_trainer(tmp_path, 2, callbacks=[best] if watch else [])
        trainer.fit(model, datamodule=data)
        logged.append(trainer.logged_metrics)
        (values,) = trainer.test(model, datamodule=data, verbose=False)
    watched, plain = logged
    assert {key: value for key, value in watched.items() if not key.startswith("watched/")} == plain
    own = {key.removeprefix("watched/"): float(value) for key, value in watched.items() if key.startswith("watched/")}
    assert own == {key.removeprefix("test/"): value for key, value in values.items()}
    assert {"accuracy", "conflict", "adjusted"} <= own.keys()
    assert best.best_model_score is not None
    assert best.best_model_score >= watched["val/accuracy"]


def test_the_value_to_select_by(tmp_path: Path) -> None:
    assert Classifier().monitor == "val/accuracy"
    model = Classifier(**{**MLP, "select_by": "worst_group"})
    best = ModelCheckpoint(tmp_path, monitor=model.monitor, mode="max")
    trainer = make_trainer(tmp_path, 2, callbacks=[best])
    trainer.fit(model, datamodule=Pictures())
    assert best.best_model_score is not None
    with pytest.raises(
        ConfigError, match=r"model\.select_by=worst_group needs bias labels and Unlabelled has none: set"
    ):
        make_trainer(tmp_path).fit(model, datamodule=Unlabelled())
    make_trainer(tmp_path).test(model, datamodule=Unlabelled(), verbose=False)
    make_trainer(tmp_path).fit(Classifier(**{**MLP, "select_by": "worst_class"}), datamodule=Unlabelled())


def test_the_last_layer_alone_is_trained_on_request(tmp_path: Path) -> None:
    model = Classifier(num_classes=3, backbone="smallresnet", head_only=True)
    model.configure_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = make_trainer(tmp_path)
    trainer.fit(model, datamodule=Pictures())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"network.head.weight", "network.head.bias"}
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == 2


class Shifted(Pictures):
    """Pictures whose bias attributes do not have the numbers of the classes, with a value of their own."""

    aligned_bias = (1, 2, 0)

    def group_scores(self, table: GroupTable) -> dict[str, Tensor]:
        return super().group_scores(table) | {"filled": (table.count > 0).float().mean()}


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_normalisation_keeps_its_statistics_on_request(tmp_path: Path, frozen: bool) -> None:
    module = Classifier(num_classes=3, backbone="smallresnet", freeze_bn=frozen)
    module.configure_model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    make_trainer(tmp_path, 2).fit(module, datamodule=ToyData())
    after = module.state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        assert torch.equal(before[name], after[name]) == frozen, name
    weights = [name for name, _ in module.named_parameters()]
    assert not any(torch.equal(before[name], after[name]) for name in weights)


def test_data_say_what_is_aligned_and_add_their_own_values(tmp_path: Path) -> None:
    model = Classifier(**MLP)
    model.configure_model()
    state = model.state_dict()
    state["network.head.weight"].zero_()
    state["network.head.bias"].copy_(torch.tensor([1.0, 0.0, 0.0]))
    trainer = make_trainer(tmp_path)
    (values,) = trainer.test(model, datamodule=Shifted(), verbose=False)
    # 4 of 12 pictures are of class 0; of the other classes one each has the attribute that goes with them here.
    assert values["test/aligned"] == 0
    assert values["test/conflict"] == pytest.approx(4 / 10)
    assert values["test/filled"] == pytest.approx(5 / 9)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert make_trainer(tmp_path).test(loaded, datamodule=Shifted(), verbose=False) == [values]


def test_loss_that_is_no_number_stops_before_a_checkpoint(tmp_path: Path) -> None:
    last = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    trainer = make_trainer(tmp_path, 2, callbacks=[last], num_sanity_val_steps=0)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 0: .*model\.lr .*trainer\.precision"):
        trainer.fit(Classifier(backbone="smallresnet"), datamodule=ToyData(broken=True))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_loss_that_is_no_number_stops_without_validation_too(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 2, limit_val_batches=0)
    with pytest.raises(TrainingError, match="epoch 0"):
        trainer.fit(Classifier(backbone="smallresnet"), datamodule=ToyData(broken=True))


def run_test(rank: int, world_size: int, folder: Path, checkpoint: Path) -> dict[str, float]:
    trainer = make_trainer(folder, devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    model = Classifier(backbone="smallresnet")
    (values,) = trainer.test(model, datamodule=ToyData(), ckpt_path=checkpoint, verbose=False)
    return {name: float(value) for name, value in values.items()}


def nan_on_one_rank(rank: int, world_size: int, folder: Path) -> str:
    trainer = make_trainer(folder, 3, devices=world_size, strategy="ddp", num_sanity_val_steps=0)
    try:
        trainer.fit(Classifier(backbone="smallresnet"), datamodule=ToyData(broken=True))
    except TrainingError as error:
        return str(error)
    return ""


def test_two_processes_test_as_one(tmp_path: Path) -> None:
    fitted(tmp_path, Classifier(backbone="smallresnet")).save_checkpoint(tmp_path / "a.ckpt")
    one = run_test(0, 1, tmp_path, tmp_path / "a.ckpt")
    two = run_ddp(as_launched, run_test, tmp_path, tmp_path / "a.ckpt")
    assert two == [one, one]


def run_watched(rank: int, world_size: int, folder: Path) -> dict[str, float]:
    L.seed_everything(0, verbose=False)
    # 13 test pictures for two processes: one is evaluated twice and counted once.
    trainer = make_trainer(folder, devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    data = Pictures(watch_test=True, test=(4, 4, 5))
    (values, more) = trainer.validate(Classifier(**MLP), datamodule=data, verbose=False)
    return {name: float(value) for name, value in {**values, **more}.items()}


def test_two_processes_watch_as_one(tmp_path: Path) -> None:
    one = run_watched(0, 1, tmp_path)
    assert {"val/accuracy", "watched/accuracy", "watched/adjusted"} <= one.keys()
    assert run_ddp(as_launched, run_watched, tmp_path) == [one, one]


def test_both_processes_stop_for_the_nan_of_one(tmp_path: Path) -> None:
    first, second = run_ddp(as_launched, nan_on_one_rank, tmp_path)
    assert "loss became nan in epoch 0" in first
    assert first == second
