import copy
import math
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from callbacks import StageCallback
from lightning_modules import ConfigError
from lightning_modules.lff import LfF
from lightning_modules.selecmix import SelecMix, SelecMixLfF, contradicting_partners, contrastive_loss
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer

NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [12], "image_size": 16, "divide_by_255": False},
}
SETTINGS: dict[str, Any] = {"auxiliary_backbone": "simpleconv", "auxiliary_lr": 3e-3, "auxiliary_weight_decay": 0.01}
UNIT = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9], [-1.0, 0.3]]), dim=1)
LABEL = torch.tensor([0, 0, 0, 1, 2])

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def built(kind: type[SelecMix] = SelecMix, seed: int = 0, **options: Any) -> Any:
    L.seed_everything(seed, verbose=False)
    module = kind(**{**NETWORK, **SETTINGS, "lr": 1e-2, **options})
    module.configure_model()
    return module


def make_batch(module: SelecMix, size: int = 16) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = next(iter(Pictures(batch_size=size, augment="none").train_dataloader()))
    module.on_train_batch_start(batch, 0)
    return batch


def test_partners_by_hand() -> None:
    # Of class 0 the first and the third are least alike; classes 1 and 2 have no other image.
    assert contradicting_partners(UNIT, LABEL, intra=True).tolist() == [2, 2, 0, 3, 4]
    # The third image looks most like the fourth, which has another class, and the other way round.
    assert contradicting_partners(UNIT, LABEL, intra=False).tolist() == [3, 3, 3, 2, 2]
    assert contradicting_partners(UNIT, torch.zeros(5, dtype=torch.int64), intra=False).tolist() == [0, 1, 2, 3, 4]


def test_partners_of_other_classes_may_be_opposite() -> None:
    opposite = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert contradicting_partners(opposite, torch.tensor([0, 0, 1]), intra=False).tolist() == [2, 2, 0]


def contrastive_by_hand(features: Tensor, label: Tensor, q: float, temperature: float, weighted: bool) -> Tensor:
    """The loss as a sum over pairs, in the weighted form or as (1 - p^q) / q."""
    losses = []
    for i in range(len(label)):
        others = [j for j in range(len(label)) if j != i]
        p = torch.stack([features[i] @ features[j] / temperature for j in others]).softmax(dim=0)
        own = [p[place] for place, j in enumerate(others) if label[j] == label[i]]
        terms = [q * x.detach() ** q * -x.log() if weighted else (1 - x**q) / q for x in own]
        losses.append(sum(terms, torch.tensor(0.0)) / max(len(own), 1))
    return torch.stack(losses)


def test_contrastive_loss_by_hand() -> None:
    torch.testing.assert_close(contrastive_loss(UNIT, LABEL), contrastive_by_hand(UNIT, LABEL, 0.7, 0.2, weighted=True))
    assert contrastive_loss(UNIT, LABEL)[3:].tolist() == [0.0, 0.0]
    # Two images of a class, whose similarity is c, beside one whose similarity to both is 0.
    c, t = 0.6, 0.5
    three = torch.tensor([[1.0, 0.0, 0.0], [c, math.sqrt(1 - c * c), 0.0], [0.0, 0.0, 1.0]])
    p = math.exp(c / t) / (math.exp(c / t) + 1)
    expected = torch.tensor([0.4 * p**0.4 * -math.log(p)] * 2 + [0.0])
    torch.testing.assert_close(contrastive_loss(three, torch.tensor([0, 0, 1]), 0.4, t), expected)


def test_gradient_is_q_times_that_of_the_generalised_form() -> None:
    gradients = []
    for compute in (
        lambda x: contrastive_loss(x, LABEL, 0.7, 0.5),
        lambda x: 0.7 * contrastive_by_hand(x, LABEL, 0.7, 0.5, weighted=False),
    ):
        features = UNIT.clone().requires_grad_()
        compute(features).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(features.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_q_zero_is_the_supervised_contrastive_loss() -> None:
    log_p = [contrastive_by_hand(UNIT, LABEL, 1e-4, 0.2, weighted=False), contrastive_loss(UNIT, LABEL, 0.0)]
    torch.testing.assert_close(log_p[0], log_p[1], rtol=1e-3, atol=1e-3)


def test_an_image_alone_leaves_the_gradient_finite() -> None:
    features = UNIT[:1].clone().requires_grad_()
    contrastive_loss(features, LABEL[:1]).sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert features.grad.tolist() == [[0.0, 0.0]]


def test_images_are_mixed_with_their_partners() -> None:
    for pairs, intra in (("intra", True), ("inter", False)):
        module = built(pairs=pairs)
        batch = make_batch(module)
        image, label = batch["image"], batch["label"]
        partner = contradicting_partners(module.similarity_features(image), label, intra)
        assert torch.equal(batch["mixed_label"], label[partner])
        assert torch.equal(batch["mixed_label"] == label, torch.full((16,), intra))
        # The share of the own image in the mixture, by the pixels.
        apart = image - image[partner]
        share = ((batch["mixed"] - image[partner]) * apart).sum(dim=(1, 2, 3)) / (apart**2).sum(dim=(1, 2, 3))
        torch.testing.assert_close(batch["mixed"], image[partner] + share[:, None, None, None] * apart)
        assert share.min() >= 0
        assert share.max() < 0.5
        assert share.std() > 0.05


def test_a_coin_decides_between_the_two_kinds_of_partners() -> None:
    module = built()
    kinds = {bool((batch["mixed_label"] == batch["label"]).all()) for batch in (make_batch(module) for _ in range(20))}
    assert kinds == {True, False}


@pytest.mark.parametrize("real_weight", [0.0, 0.5])
def test_losses_are_the_weighted_sum(real_weight: float) -> None:
    module = built(mixed_weight=0.25, real_weight=real_weight, contrastive_q=0.5, temperature=0.3)
    batch = make_batch(module)
    logits, losses = module.training_losses(batch)
    torch.testing.assert_close(logits, module(batch["image"]))
    real = F.cross_entropy(logits, batch["label"], reduction="none")
    mixed = F.cross_entropy(module(batch["mixed"]), batch["mixed_label"], reduction="none")
    features = module.similarity_features(batch["image"])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(16))
    contrastive = contrastive_loss(features, batch["label"], 0.5, 0.3)
    torch.testing.assert_close(losses, real_weight * real + 0.25 * mixed + contrastive)


def straightforward(module: SelecMix, data: Pictures, epochs: int, parts: int) -> nn.Module:
    """The reference code's loop: partners in the whole batch, then a step of both optimizers for each part of it."""
    network, auxiliary = copy.deepcopy(module.network), copy.deepcopy(module.auxiliary)
    assert network is not None
    assert auxiliary is not None
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    own = torch.optim.Adam(auxiliary.parameters(), lr=3e-3, weight_decay=0.01)
    loader: Any = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for number, batch in enumerate(loader):
            if number == 0:
                L.seed_everything((3 * 100_003 + epoch) * 1_009, verbose=False)
            image, label = batch["image"], batch["label"]
            intra = bool(torch.rand(()) > 0.5)
            with torch.no_grad():
                partner = contradicting_partners(F.normalize(auxiliary(image), dim=1), label, intra)
            share = 0.5 * torch.rand(len(label), 1, 1, 1)
            mixed = share * image + (1 - share) * image[partner]
            for part in range(parts):
                rows = torch.arange(part, len(label), parts)
                optimizer.zero_grad()
                F.cross_entropy(network(mixed[rows]), label[partner][rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                own.zero_grad()
                contrastive_loss(F.normalize(auxiliary(image[rows]), dim=1), label[rows]).mean().backward()  # type: ignore[no-untyped-call]
                own.step()
    return nn.ModuleDict({"network": network, "auxiliary": auxiliary})


@pytest.mark.parametrize(("mini_batch", "parts"), [(None, 1), (4, 4)])
def test_a_fit_is_the_straightforward_loop(tmp_path: Path, mini_batch: int | None, parts: int) -> None:
    module, data = built(mini_batch=mini_batch), Pictures((18, 12, 6), batch_size=16)
    start = copy.deepcopy(module)
    trainer = make_trainer(tmp_path, 2, callbacks=[StageCallback(tmp_path, seed=3)])
    trainer.fit(module, datamodule=data)
    expected = straightforward(start, data, 2, parts).state_dict()
    assert trainer.global_step == 4
    state = module.state_dict()
    assert expected.keys() == state.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4)
    moved = [key for key, value in start.state_dict().items() if not torch.allclose(value, expected[key].to(value))]
    assert {key.split(".")[0] for key in moved} == {"network", "auxiliary"}


def test_batch_normalisation_sees_the_images_themselves() -> None:
    module = built(backbone="smallresnet", backbone_args=None)
    batch = make_batch(module)
    only_mixed = copy.deepcopy(module)
    module.training_losses(batch)
    only_mixed(batch["mixed"])
    assert module.network.get_submodule("stem.1").num_batches_tracked == 2
    assert only_mixed.network.get_submodule("stem.1").num_batches_tracked == 1


def test_the_auxiliary_network_has_its_own_rate_and_checkpoints_hold_plain_values(tmp_path: Path) -> None:
    module = built()
    trainer = make_trainer(tmp_path)
    trainer.fit(module, datamodule=Pictures())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    own, auxiliary = content["optimizer_states"][0]["param_groups"]
    assert (own["lr"], own["weight_decay"]) == (1e-2, 0)
    assert (auxiliary["lr"], auxiliary["weight_decay"]) == (3e-3, 0.01)
    assert len(own["params"]) == len(list(module.network.parameters()))
    assert len(auxiliary["params"]) == len(list(module.auxiliary.parameters()))
    assert {"optimizer", "scheduler"}.isdisjoint(content["hyper_parameters"])
    loaded = SelecMix.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.eval()(image), module.eval()(image))


def test_without_a_rate_of_its_own_it_takes_that_of_the_classifier() -> None:
    optimizer: Any = built(auxiliary_lr=None, lr=0.5).configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("kind", [SelecMix, SelecMixLfF])
def test_command_line(kind: type[SelecMix], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    flags = ["--model.lr=0.02", "--model.optimizer", "AdamW", "--model.optimizer.weight_decay", "0.3"]
    flags += ["--model.backbone=smallresnet", "--model.auxiliary_lr=0.004", "--model.scheduler=StepLR"]
    flags += ["--model.scheduler.step_size=1", "--trainer.accelerator=cpu"]
    flags += ["--model.ema=0.6"] if kind is SelecMixLfF else []
    cli = LightningCLI(
        kind, Pictures, run=False, args=flags, auto_configure_optimizers=False, save_config_callback=None
    )
    model = cli.model
    model.trainer = cli.trainer
    cli.trainer.datamodule = cli.datamodule  # type: ignore[attr-defined]
    model.configure_model()
    settings: Any = model.configure_optimizers()
    assert [group["initial_lr"] for group in settings["optimizer"].param_groups] == [0.02, 0.004]
    assert [group["weight_decay"] for group in settings["optimizer"].param_groups] == [0.3, 1e-4]
    assert model.hparams.get("ema") == (0.6 if kind is SelecMixLfF else None)
    assert (model.hparams["mixed_weight"], model.hparams["real_weight"]) == (
        (0.1, 1.0) if kind is SelecMixLfF else (1.0, 0.0)
    )


def test_on_lff_the_mixed_images_come_beside_its_own_losses(tmp_path: Path) -> None:
    module, data = built(SelecMixLfF, lr=0.0, auxiliary_lr=0.0), Pictures(batch_size=16, augment="none")
    make_trainer(tmp_path).fit(module, datamodule=data)
    assert module.difficulty.seen.all()
    batch = make_batch(module)
    plain = LfF(**NETWORK)
    plain.on_load_checkpoint({"state_dict": module.state_dict()})
    plain.load_state_dict(module.state_dict(), strict=False)
    plain.difficulty.arrange(data.train_labels(), 3)
    # With the same averages and a rate of 0 the averages stay as they are.
    logits, own = plain.training_losses(batch)
    all_logits, losses = module.training_losses(batch)
    mixed = F.cross_entropy(module(batch["mixed"]), batch["mixed_label"], reduction="none")
    contrastive = contrastive_loss(module.similarity_features(batch["image"]), batch["label"])
    torch.testing.assert_close(all_logits, logits)
    torch.testing.assert_close(losses, own + 0.1 * mixed + contrastive, rtol=1e-4, atol=1e-5)


def run(folder: Path, kind: type[SelecMix], name: str, epochs: int, checkpoint: Path | None = None) -> Path:
    module = built(kind, seed=epochs if checkpoint else 0, mini_batch=4)
    last = ModelCheckpoint(folder / name, "last", save_on_train_epoch_end=True)
    trainer = make_trainer(folder, epochs, callbacks=[StageCallback(folder / name, seed=3), last])
    trainer.fit(module, datamodule=Pictures(), ckpt_path=checkpoint, weights_only=True)
    return Path(last.best_model_path)


@pytest.mark.parametrize("kind", [SelecMix, SelecMixLfF])
def test_a_resumed_fit_ends_with_the_same_bytes(tmp_path: Path, kind: type[SelecMix]) -> None:
    whole = run(tmp_path, kind, "whole", 3)
    rest = run(tmp_path, kind, "rest", 3, run(tmp_path, kind, "start", 1))
    weights, others = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, rest))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrastive_q": 1.2}, "q of the"),
        ({"temperature": 0.0}, r"model\.temperature"),
        ({"mixed_weight": 0.0}, r"model\.mixed_weight"),
        ({"real_weight": -1.0}, r"model\.real_weight"),
        ({"mini_batch": 1}, r"model\.mini_batch"),
    ],
)
def test_settings_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SelecMix(**options)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.real_weight"):
        SelecMixLfF(real_weight=0.0)
    with pytest.raises(ConfigError, match="backbone 'resnet17' is unknown"):
        SelecMix(**NETWORK, auxiliary_backbone="resnet17").check(Pictures())
    with pytest.raises(ConfigError, match=r"trainer\.accumulate_grad_batches"):
        make_trainer(tmp_path, accumulate_grad_batches=2).fit(built(mini_batch=4), datamodule=Pictures())


def train_rank(rank: int, world_size: int, folder: Path) -> dict[str, Tensor]:
    module = built(SelecMixLfF, mini_batch=4)
    callbacks = [StageCallback(folder, seed=3)]
    trainer = make_trainer(folder, 2, devices=world_size, strategy="ddp", callbacks=callbacks)
    trainer.fit(module, datamodule=Pictures())
    return {key: value.clone() for key, value in module.state_dict().items() if "running" not in key}


def test_two_processes_share_their_weights(tmp_path: Path) -> None:
    first, second = run_ddp(as_launched, train_rank, tmp_path)
    assert {key.split(".")[0] for key in first} == {"network", "biased_network", "auxiliary", "difficulty"}
    assert all(torch.equal(value, second[key]) for key, value in first.items())
