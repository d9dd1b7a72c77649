import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_modules import Classifier, ConfigError
from lightning_modules.lff import LfF
from tests.datamodules.toy import NAMES, Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, fit_staged, make_trainer
from tests.generators import write_synthetic

NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [12], "image_size": 16, "divide_by_255": False},
}
# Of these a handful of the training images are in the amplified set, so that most batches have none or few.
ENSEMBLE: dict[str, Any] = {"confidence": 0.4, "agreement": 2}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def built(seed: int = 0, **options: Any) -> LfF:
    L.seed_everything(seed, verbose=False)
    module = LfF(**{**NETWORK, "lr": 1e-2, **options})
    module.configure_model()
    return module


def make_ensemble(count: int = 3) -> list[Classifier]:
    members = []
    for seed in range(count):
        L.seed_everything(100 + seed, verbose=False)
        member = Classifier(**NETWORK)
        member.configure_model()
        members.append(member)
    return members


def both_networks(module: LfF) -> tuple[nn.Module, nn.Module]:
    assert module.network is not None
    assert module.biased_network is not None
    return module.network, module.biased_network


def averages(module: LfF) -> Tensor:
    """Averages [2, N] in the order of the training entries."""
    return module.difficulty.average[:, module.difficulty.place]


def straightforward(
    module: LfF, data: Pictures, epochs: int, amplified: Sequence[bool] | None = None
) -> tuple[nn.Module, nn.Module, list[dict[int, float]]]:
    """The method as one would write it down: two networks with an optimizer each, and averages by image."""
    networks = copy.deepcopy(both_networks(module))
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-2) for network in networks]
    average: list[dict[int, float]] = [{}, {}]
    labels = data.train_labels().tolist()
    loader: Any = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            rows, label = batch["index"].tolist(), batch["label"]
            logits = [network(batch["image"]) for network in networks]
            losses = [F.cross_entropy(scores, label, reduction="none") for scores in logits]
            relative = []
            for number, known in enumerate(average):
                for row, loss in zip(rows, losses[number].tolist(), strict=True):
                    known[row] = 0.7 * known[row] + 0.3 * loss if row in known else loss
                greatest = [max(known[i] for i in known if labels[i] == label) for label in range(3)]
                if amplified is not None and number == 1:
                    greatest = [value + 1e-8 for value in greatest]
                relative.append([known[row] / greatest[labels[row]] for row in rows])
            weight = torch.tensor([b / (b + d + 1e-8) for d, b in zip(*relative, strict=True)])
            if amplified is None:
                probability = logits[1].softmax(dim=1)[torch.arange(len(rows)), label].detach()
                biased_loss = (0.7 * probability**0.7 * losses[1]).mean()
            else:
                chosen = losses[1][[amplified[row] for row in rows]]
                biased_loss = chosen.mean() if len(chosen) else 0 * losses[1].sum()
            for optimizer in optimizers:
                optimizer.zero_grad()
            ((weight * losses[0]).mean() + biased_loss).backward()
            for optimizer in optimizers:
                optimizer.step()
    return *networks, average


def assert_same(network: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(network.state_dict()), dict(other.state_dict()), rtol=1e-4, atol=1e-5)


def changes(start: LfF, end: LfF, least: float = 0.0) -> list[bool]:
    """Whether each of both networks has changed, by more than `least`."""
    pairs = zip(both_networks(start), both_networks(end), strict=True)
    return [
        any(bool(((p - q).abs() > least).any()) for p, q in zip(old.parameters(), new.parameters(), strict=True))
        for old, new in pairs
    ]


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_fit_is_the_straightforward_loop_with_two_optimizers(tmp_path: Path, ensemble: bool) -> None:
    module = built(**ENSEMBLE)
    if ensemble:
        module.helpers["ensemble"] = make_ensemble()
    start = copy.deepcopy(module)
    data = Pictures()
    make_trainer(tmp_path, 3).fit(module, datamodule=data)
    amplified = None if module.amplified is None else module.amplified.tolist()
    if ensemble:
        assert amplified is not None
        assert 0 < sum(amplified) < 8
        assert module.difficulty.epsilon == 1e-8  # too little to show below
    network, biased, average = straightforward(start, data, 3, amplified)
    assert_same(both_networks(module)[0], network)
    assert_same(both_networks(module)[1], biased)
    for held, known in zip(averages(module), reversed(average), strict=True):
        torch.testing.assert_close(held, torch.tensor([known[row] for row in range(34)]), rtol=1e-4, atol=1e-5)
    # Otherwise the comparison would say nothing.
    for before, after in zip(both_networks(start), both_networks(module), strict=True):
        assert any(
            not torch.allclose(p, q, atol=1e-2) for p, q in zip(before.parameters(), after.parameters(), strict=True)
        )


def test_no_gradient_of_one_network_depends_on_the_other(tmp_path: Path) -> None:
    """Also not by way of the weight: other averages change the gradient of the one it belongs to alone."""
    module, data = built(), Pictures(batch_size=34)
    make_trainer(tmp_path).fit(module, datamodule=data)
    batch = next(iter(data.train_dataloader()))
    gradients = []
    for scale in (1.0, 50.0):
        module.difficulty.average[0, ::2] *= scale
        module.zero_grad()
        torch.autograd.backward(module.training_losses(batch)[1].mean())
        gradients.append(
            [[p.grad.clone() for p in n.parameters() if p.grad is not None] for n in both_networks(module)]
        )
    (network, biased), (other_network, other_biased) = gradients
    assert all(torch.equal(a, b) for a, b in zip(biased, other_biased, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(network, other_network, strict=True))


def test_the_true_loss_and_no_maximum_on_request(tmp_path: Path) -> None:
    module = built(weighted_gce=False, class_max=False, ema=0.0, q=1.0)
    data = Pictures()
    make_trainer(tmp_path, limit_train_batches=1).fit(module, datamodule=data)
    batch = next(iter(data.train_dataloader()))
    logits, losses = module.training_losses(batch)
    biased_logits = module.biased_logits(batch["image"])
    loss, biased = (F.cross_entropy(scores, batch["label"], reduction="none") for scores in (logits, biased_logits))
    wrong = 1 - biased_logits.softmax(dim=1)[torch.arange(8), batch["label"]]
    torch.testing.assert_close(logits, module(batch["image"]))
    torch.testing.assert_close(losses, wrong + biased / (biased + loss) * loss)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_averages_are_kept_in_single_precision(tmp_path: Path, precision: Any) -> None:
    for epochs, checkpoint in ((1, None), (2, tmp_path / "a.ckpt")):
        module, trainer = built(), make_trainer(tmp_path, epochs, precision=precision)
        trainer.fit(module, datamodule=Pictures(), ckpt_path=checkpoint, weights_only=True)
        assert averages(module).dtype == torch.float32
        assert (averages(module) != averages(module).bfloat16()).any(dim=1).all()
        trainer.save_checkpoint(tmp_path / "a.ckpt")


def test_the_biased_network_is_not_what_classifies(tmp_path: Path) -> None:
    module = built()
    trainer = make_trainer(tmp_path)
    trainer.fit(module, datamodule=Pictures())
    assert {"train/loss", "train/accuracy", "val/accuracy", "val/aligned"} <= set(trainer.logged_metrics)
    before = trainer.test(module, datamodule=Pictures(), verbose=False)
    with torch.no_grad():
        for parameter in both_networks(module)[1].parameters():
            parameter.zero_()
    assert trainer.test(module, datamodule=Pictures(), verbose=False) == before


def run(folder: Path, name: str, epochs: int, checkpoint: Path | None = None, **options: Any) -> Path:
    """Fit until there are `epochs` epochs and return the last checkpoint."""
    module = built(seed=epochs if checkpoint else 0)
    return fit_staged(module, folder, name, epochs, ckpt_path=checkpoint, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_fit_ends_with_the_same_bytes(tmp_path: Path, precision: str) -> None:
    whole = run(tmp_path, "whole", 4, precision=precision)
    start = run(tmp_path, "start", 2, precision=precision)
    rest = run(tmp_path, "rest", 4, start, precision=precision)
    states = [torch.load(path, weights_only=True) for path in (whole, rest)]
    assert states[0]["global_step"] == states[1]["global_step"] == 20
    weights, others = (state["state_dict"] for state in states)
    assert weights.keys() == others.keys()
    assert {"difficulty.average", "difficulty.seen", "network.head.weight", "biased_network.head.weight"} <= set(
        weights
    )
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    moments, other_moments = (state["optimizer_states"][0]["state"] for state in states)
    assert all(torch.equal(moments[i]["exp_avg_sq"], other_moments[i]["exp_avg_sq"]) for i in moments)
    assert weights["difficulty.seen"].all()


def test_a_checkpoint_is_tested_and_loaded_alone(tmp_path: Path) -> None:
    path = run(tmp_path, "run", 1)
    values = []
    for module in (built(seed=8), LfF(**{**NETWORK, "num_classes": None})):
        values += make_trainer(tmp_path).test(module, datamodule=Pictures(), ckpt_path=path, verbose=False)
    loaded = LfF.load_from_checkpoint(path, weights_only=True)
    values += make_trainer(tmp_path).test(loaded, datamodule=Pictures(), verbose=False)
    assert values[0] == values[1] == values[2]
    assert loaded.difficulty.average.shape == (2, 34)


def test_a_checkpoint_for_other_data_is_refused_in_one_line(tmp_path: Path) -> None:
    path = run(tmp_path, "run", 1)
    with pytest.raises(ConfigError, match="the losses of 34 training images, but there are 36") as error:
        run(tmp_path, "more", 2, path, data=Pictures(train=(20, 10, 10)))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(Classifier(**NETWORK), datamodule=Pictures())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="no losses of training images, so LfF did not write it"):
        make_trainer(tmp_path).test(built(), datamodule=Pictures(), ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.parametrize("source", ["both", "synthetic"])
def test_real_and_synthetic_images_have_rows_of_their_own(tmp_path: Path, source: Any) -> None:
    data = Pictures(augment="none")
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [0, 1, 2, 2], NAMES, 20)
    data.source = source
    # With this rate the networks stay as they are, so that every average is the loss of its own picture.
    module = built(optimizer=sgd, lr=0.0)
    make_trainer(tmp_path).fit(module, datamodule=data)
    expected = torch.zeros(2, 38)
    for batch in data.train_dataloader():
        for row, index in enumerate(batch["index"].tolist()):
            one = slice(row, row + 1)
            for number, network in enumerate(reversed(both_networks(module))):
                loss = F.cross_entropy(network(batch["image"][one]), batch["label"][one])
                expected[number, index + 34 * int(batch["synthetic"][row])] = loss.item()
    torch.testing.assert_close(averages(module), expected)
    assert (expected > 0).sum() == (76 if source == "both" else 8)


def test_with_an_ensemble_the_biased_network_leaves_synthetic_images_out(tmp_path: Path) -> None:
    data = Pictures()
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [0, 1, 2, 2], NAMES, 20)
    data.source = "both"
    module = built(optimizer=sgd, confidence=1.0)
    module.helpers["ensemble"] = make_ensemble()
    start = copy.deepcopy(module)
    make_trainer(tmp_path).fit(module, datamodule=data)
    assert module.amplified is not None
    assert module.amplified.tolist() == [False] * 38
    assert changes(start, module) == [True, False]


@pytest.mark.parametrize(("options", "message"), [({"q": 1.5}, "q of the"), ({"ema": 1.0}, r"model\.ema")])
def test_settings_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LfF(**options)


def train_ranks(rank: int, world_size: int, folder: Path, ensemble: bool) -> dict[str, Tensor]:
    """What a fit with 8 images a step leaves; its 32 training images fill the steps."""
    module = built(**ENSEMBLE)
    if ensemble:
        module.helpers["ensemble"] = make_ensemble()
    data = Pictures((18, 12, 6), batch_size=8 // world_size)
    strategy = "ddp" if world_size > 1 else "auto"
    make_trainer(folder, 3, devices=world_size, strategy=strategy).fit(module, datamodule=data)
    assert module.global_step == 12
    amplified = torch.zeros(0) if module.amplified is None else module.amplified
    return {**{key: value.clone() for key, value in module.state_dict().items()}, "amplified": amplified}


@pytest.mark.parametrize("ensemble", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path: Path, ensemble: bool) -> None:
    one = train_ranks(0, 1, tmp_path, ensemble)
    first, second = run_ddp(as_launched, train_ranks, tmp_path, ensemble)
    assert first.keys() == second.keys() == one.keys()
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4)
    assert int(one["amplified"].sum()) in (range(1, 8) if ensemble else (0,))


def amplified_by_hand(module: LfF, amplifier: Classifier, data: Pictures, epochs: int) -> nn.Module:
    """The second recipe of Diffusing DeBias as one would write it down."""
    network = copy.deepcopy(module.network)
    assert network is not None
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    fixed: dict[int, float] = {}
    own: dict[int, float] = {}
    for batch in data.mining_dataloader(0, 1):
        with torch.no_grad():
            losses = F.cross_entropy(amplifier(batch["image"]), batch["label"], reduction="none")
        fixed |= dict(zip(batch["index"].tolist(), losses.tolist(), strict=True))
    loader: Any = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            losses = F.cross_entropy(network(batch["image"]), batch["label"], reduction="none")
            rows = batch["index"].tolist()
            for row, loss in zip(rows, losses.tolist(), strict=True):
                own[row] = 0.7 * own[row] + 0.3 * loss if row in own else loss
            weight = torch.tensor([fixed[row] / (fixed[row] + own[row] + 1e-8) for row in rows])
            optimizer.zero_grad()
            (weight * losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network


def test_an_amplifier_takes_the_place_of_the_biased_network(tmp_path: Path) -> None:
    module, (amplifier,) = built(biased="amplifier", class_max=False), make_ensemble(1)
    assert module.biased_network is None
    module.helpers["amplifier"] = [amplifier]
    before = copy.deepcopy(amplifier)
    start = copy.deepcopy(module)
    data = Pictures()
    make_trainer(tmp_path, 3).fit(module, datamodule=data)
    assert module.network is not None
    assert_same(module.network, amplified_by_hand(start, amplifier, data, 3))
    assert_same(amplifier, before)
    assert not any("amplifier" in name for name in module.state_dict())
    assert start.network is not None
    with pytest.raises(AssertionError):
        assert_same(module.network, start.network)


@pytest.mark.parametrize(
    ("biased", "helpers", "source", "message"),
    [
        ("amplifier", {}, "real", "there is none"),
        ("trained", {"amplifier": 1}, "real", "has no effect"),
        ("amplifier", {"amplifier": 1}, "both", "real images"),
        ("amplifier", {"amplifier": 1, "ensemble": 3}, "real", "ensemble has no effect"),
    ],
)
def test_an_amplifier_must_fit(biased: str, helpers: dict[str, int], source: Any, message: str) -> None:
    module = built(biased=biased)
    module.helpers = {name: list(make_ensemble(count)) for name, count in helpers.items()}
    data = Pictures()
    data.source = source
    with pytest.raises(ConfigError, match=message):
        module.check_fit(data)
