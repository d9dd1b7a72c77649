import math
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import MultiStepLR, StepLR

from callbacks import StageCallback
from callbacks.stage import load_classifier
from lightning_modules import BiasedModule, ConfigError
from lightning_modules.disent import DisEnt
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer
from tests.lightning_modules.toy import ToyData

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]

NEVER = 10**9
LABELS = [0, 0, 1]
# Codes of three images, of one number each.
CODES, BIASED_CODES = [1.0, 0.5, 2.0], [3.0, 1.0, 0.25]
BATCH = {
    "image": torch.tensor([CODES, BIASED_CODES, [0.0] * 3]).T.reshape(3, 3, 1, 1),
    "label": torch.tensor(LABELS),
    "bias": torch.tensor(LABELS),
    "index": torch.arange(3),
    "synthetic": torch.zeros(3, dtype=torch.bool),
}


def by_hand(**options: Any) -> DisEnt:
    """A module for images of one pixel.

    Red is the intrinsic code and green the bias code. The intrinsic classifier's scores are (intrinsic, bias), those of
    the biased one (bias, intrinsic).
    """
    args = {"hidden": [1], "image_size": 1, "divide_by_255": False}
    model = DisEnt(num_classes=2, backbone="mlp", backbone_args=args, **options)
    model.configure_model()
    network = model.get_submodule("network")
    with torch.no_grad():
        for name, channel in (("encoder", 0), ("biased_encoder", 1)):
            linear = next(m for m in network.get_submodule(name).modules() if isinstance(m, nn.Linear))
            linear.weight.copy_(nn.functional.one_hot(torch.tensor([channel]), 3))
            nn.init.zeros_(linear.bias)
        for name, weight in (("head", [[1.0, 0.0], [0.0, 1.0]]), ("biased_head", [[0.0, 1.0], [1.0, 0.0]])):
            head = network.get_submodule(name)
            assert isinstance(head, nn.Linear)
            head.weight.copy_(torch.tensor(weight))
            nn.init.zeros_(head.bias)
    model.difficulty.arrange(torch.tensor(LABELS), 2)
    return model


def ce(scores: tuple[float, float], label: int) -> float:
    return math.log(1 + math.exp(scores[1 - label] - scores[label]))


def gce(scores: tuple[float, float], label: int, q: float = 0.7) -> float:
    """The form of the reference code."""
    loss = ce(scores, label)
    return q * math.exp(-q * loss) * loss


LOSS = [ce((CODES[i], BIASED_CODES[i]), LABELS[i]) for i in range(3)]
BIASED_LOSS = [ce((BIASED_CODES[i], CODES[i]), LABELS[i]) for i in range(3)]


def weights() -> list[float]:
    """W of the first batch: each average is the loss itself, over the greatest of the class."""
    found = []
    for i, label in enumerate(LABELS):
        same = [j for j in range(3) if LABELS[j] == label]
        biased = BIASED_LOSS[i] / max(BIASED_LOSS[j] for j in same)
        found.append(biased / (biased + LOSS[i] / max(LOSS[j] for j in same)))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_loss_is_the_one_computed_by_hand() -> None:
    logits, losses = by_hand(lambda_dis=3.0, swap_from=0).training_losses(BATCH)
    assert logits.tolist() == [[1.0, 3.0], [0.5, 1.0], [2.0, 0.25]]
    expected = [
        w * loss + 3 * gce((b, c), y)
        for w, loss, b, c, y in zip(weights(), LOSS, BIASED_CODES, CODES, LABELS, strict=True)
    ]
    assert weights()[:2] != pytest.approx([0.5, 0.5], abs=0.1)
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def test_true_gce_by_request() -> None:
    _, losses = by_hand(weighted_gce=False, q=0.5).training_losses(BATCH)
    probability = [math.exp(-loss) for loss in BIASED_LOSS]
    expected = [w * loss + (1 - p**0.5) / 0.5 for w, loss, p in zip(weights(), LOSS, probability, strict=True)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def test_swapped_loss_is_the_one_computed_by_hand() -> None:
    """Permuted bias codes come with their own labels, W with the intrinsic code."""
    model = by_hand(lambda_dis=3.0, lambda_swap_b=5.0, lambda_swap=0.5, swap_from=-1)
    torch.manual_seed(1)
    order = torch.randperm(3).tolist()
    assert order != [0, 1, 2]
    torch.manual_seed(1)
    _, losses = model.training_losses(BATCH)
    expected = mean([w * loss for w, loss in zip(weights(), LOSS, strict=True)])
    expected += 3 * mean([gce((BIASED_CODES[i], CODES[i]), LABELS[i]) for i in range(3)])
    swap = mean([weights()[i] * ce((CODES[i], BIASED_CODES[order[i]]), LABELS[i]) for i in range(3)])
    swap += 5 * mean([gce((BIASED_CODES[order[i]], CODES[i]), LABELS[order[i]]) for i in range(3)])
    assert losses.mean().item() == pytest.approx(expected + 0.5 * swap, abs=1e-5)


def test_with_a_bias_amplified_set_the_biased_classifier_learns_by_ce_from_it_alone() -> None:
    """Of a permuted pair, the image counts that gave the bias code."""
    model = by_hand(lambda_dis=3.0, lambda_swap_b=5.0, lambda_swap=0.5, swap_from=-1)
    model.amplified = torch.tensor([True, False, True])
    torch.manual_seed(1)
    order = torch.randperm(3).tolist()
    torch.manual_seed(1)
    _, losses = model.training_losses(BATCH)
    expected = mean([w * loss for w, loss in zip(weights(), LOSS, strict=True)])
    expected += 3 * mean([BIASED_LOSS[0], BIASED_LOSS[2]])
    swap = mean([weights()[i] * ce((CODES[i], BIASED_CODES[order[i]]), LABELS[i]) for i in range(3)])
    inside = [ce((BIASED_CODES[j], CODES[i]), LABELS[j]) for i, j in enumerate(order) if j != 1]
    assert losses.mean().item() == pytest.approx(expected + 0.5 * (swap + 5 * mean(inside)), abs=1e-5)


def test_an_empty_bias_amplified_set_is_borne() -> None:
    model = by_hand(swap_from=-1)
    model.amplified = torch.zeros(3, dtype=torch.bool)
    model.training_step(BATCH, 0).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert not any(g.any() for name, g in gradients.items() if "biased" in name and g is not None)


def gradients(**options: Any) -> dict[str, float]:
    """Greatest gradient of each part of the network."""
    torch.manual_seed(0)
    model = DisEnt(num_classes=3, backbone="mlp", backbone_args={"image_size": 16}, **options)
    model.configure_model()
    model.difficulty.arrange(torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    batch = {
        "image": 255 * torch.rand(6, 3, 16, 16),
        "label": torch.tensor([0, 1, 2, 0, 1, 2]),
        "index": torch.arange(6),
        "synthetic": torch.zeros(6, dtype=torch.bool),
    }
    model.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
    found: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # else DDP would wait for it
        part = name.split(".")[1]
        found[part] = max(found.get(part, 0.0), parameter.grad.abs().max().item())
    return found


@pytest.mark.parametrize("swap_from", [-1, NEVER])
def test_each_classifier_teaches_its_own_encoder_alone(swap_from: int) -> None:
    learning = gradients(swap_from=swap_from)
    assert all(learning[part] > 0 for part in ("encoder", "head", "biased_encoder", "biased_head"))
    unbiased = gradients(swap_from=swap_from, lambda_dis=0, lambda_swap_b=0)
    assert unbiased["biased_encoder"] == unbiased["biased_head"] == 0
    assert (unbiased["encoder"], unbiased["head"]) == pytest.approx((learning["encoder"], learning["head"]))


def test_without_a_swapped_loss_all_parameters_still_have_gradients() -> None:
    assert gradients(swap_from=-1, lambda_swap=0) == gradients(swap_from=NEVER)


def test_features_are_the_intrinsic_codes_and_both_classifiers_see_both_codes() -> None:
    model = DisEnt(num_classes=3, backbone="resnet18").eval()
    image = torch.randn(2, 3, 64, 64)
    features = model.features(image)
    network = model.get_submodule("network")
    assert features.shape == (2, 512)
    assert torch.equal(features, network.get_submodule("encoder")(image))
    both = torch.cat([features, network.get_submodule("biased_encoder")(image)], dim=1)
    torch.testing.assert_close(model(image), network.get_submodule("head")(both))
    torch.testing.assert_close(model.biased_logits(image), network.get_submodule("biased_head")(both))


def test_a_backbone_without_linear_last_layer_is_refused_at_the_check() -> None:
    DisEnt(backbone="smallresnet").check(Pictures())
    with pytest.raises(ConfigError, match="no linear last layer"):
        DisEnt(backbone="squeezenet1_1").check(Pictures(image_size=64))


# Training

MLP: dict[str, Any] = {"backbone": "mlp", "backbone_args": {"image_size": 16, "divide_by_255": False}}


def fitted(folder: Path, epochs: int = 2, resume: Path | None = None, **options: Any) -> DisEnt:
    """Trained on 32 images in batches of 8, as a stage of a chain."""
    L.seed_everything(0, verbose=False)
    callbacks: list[Callback] = [StageCallback(folder, 5), *options.pop("callbacks", ())]
    trainer = make_trainer(folder, epochs, callbacks=callbacks, **options.pop("trainer", {}))
    model = DisEnt(**{**MLP, "lr": 1e-2, "swap_from": 3, **options})
    trainer.fit(model, datamodule=pictures(), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt", weights_only=False)
    return model


def pictures(batch_size: int = 8) -> Pictures:
    return Pictures(train=(16, 8, 8), with_val=True, batch_size=batch_size)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], rtol: float = 0, atol: float = 0) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=rtol, atol=atol)


def test_codes_are_swapped_after_more_steps_than_swap_from(tmp_path: Path) -> None:
    def after(steps: int, swap_from: int) -> Tensor:
        folder = tmp_path / f"{steps}-{swap_from}"
        model = fitted(folder, trainer={"max_steps": steps}, swap_from=swap_from)
        return state(model)["network.head.weight"]

    assert torch.equal(after(3, 2), after(3, NEVER))
    assert not torch.equal(after(4, 2), after(4, NEVER))


def test_a_broken_off_fit_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", epochs=4)
    fitted(tmp_path / "half", epochs=2)
    resumed = fitted(tmp_path / "rest", epochs=4, resume=tmp_path / "half" / "end.ckpt")
    assert whole.difficulty.average.shape == (2, 32)
    assert whole.difficulty.seen.all()
    assert_same(state(whole), state(resumed))


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, number: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def halve(optimizer: torch.optim.Optimizer) -> MultiStepLR:
    return MultiStepLR(optimizer, [4, 6, 8, 10], gamma=0.5)


def test_milestones_give_the_rates_of_the_reference_code(tmp_path: Path) -> None:
    """There, a StepLR makes its first step after the optimizer step that has the number swap_from, counted from 0."""
    rates = Rates()
    fitted(tmp_path, 3, callbacks=[rates], scheduler=halve, scheduler_interval="step", swap_from=2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    reference = StepLR(optimizer, step_size=2, gamma=0.5)
    expected = []
    for step in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step >= 2:
            reference.step()
    assert rates.seen == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "expected"), [(0.0, 32), (0.999, 0)])
def test_an_ensemble_gives_the_bias_amplified_set(tmp_path: Path, confidence: float, expected: int) -> None:
    torch.manual_seed(3)
    members = [BiasedModule(num_classes=3, **MLP) for _ in range(3)]
    for member in members:
        member.configure_model()
    model = DisEnt(**MLP, lr=1e-2, swap_from=1, confidence=confidence)
    model.helpers = {"ensemble": list(members)}
    trainer = make_trainer(tmp_path)
    trainer.fit(model, datamodule=pictures())
    assert model.amplified is not None
    assert model.amplified.sum() == expected
    assert all(value.isfinite().all() for value in state(model).values())
    assert trainer.logged_metrics["train/loss"].isfinite()


def test_an_amplifier_gives_the_weights_and_all_else_stays(tmp_path: Path) -> None:
    torch.manual_seed(3)
    amplifier = BiasedModule(num_classes=3, **MLP)
    amplifier.configure_model()
    model = DisEnt(**MLP, lr=1e-2, swap_from=1, biased="amplifier")
    model.helpers = {"amplifier": [amplifier]}
    data = pictures()
    make_trainer(tmp_path).fit(model, datamodule=data)
    with torch.no_grad():
        for batch in data.mining_dataloader(0, 1):
            expected = F.cross_entropy(amplifier(batch["image"]), batch["label"], reduction="none")
            held = model.difficulty.average[0, model.difficulty.place[batch["index"]]]
            torch.testing.assert_close(held, expected)
    fresh = DisEnt(num_classes=3, **MLP)
    fresh.configure_model()
    assert fresh.state_dict().keys() >= {k for k in state(model) if not k.startswith("difficulty")}


def test_a_later_stage_starts_from_the_trained_network(tmp_path: Path) -> None:
    first = fitted(tmp_path, epochs=1)
    second = DisEnt(num_classes=3, **MLP)
    second.configure_model()
    load_classifier(second, tmp_path / "end.ckpt")
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(second.eval()(image), first.eval()(image))
    loaded = DisEnt.load_from_checkpoint(tmp_path / "end.ckpt", weights_only=True).eval()
    assert torch.equal(loaded(image), first(image))


def test_command_line_reaches_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    given = {
        "lambda_dis": 2.0,
        "lambda_swap_b": 3.0,
        "lambda_swap": 0.1,
        "swap_from": 7,
        "q": 0.5,
        "ema": 0.9,
        "lr": 0.1,
    }
    args = [f"--model.{key}={value}" for key, value in given.items()]
    cli = LightningCLI(
        DisEnt, ToyData, run=False, args=[*args, "--trainer.accelerator=cpu"], auto_configure_optimizers=False
    )
    assert given.items() <= dict(cli.model.hparams).items()
    assert DisEnt().hparams["swap_from"] == 10_000


def fit_share(rank: int, world_size: int, folder: Path) -> list[dict[str, Tensor]]:
    """What a fit with swapping ends with, and one without."""
    ends = []
    for swap_from in (3, NEVER):
        L.seed_everything(0, verbose=False)
        options = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
        own = folder / f"{world_size}-{swap_from}"
        trainer = make_trainer(own, 2, num_sanity_val_steps=0, callbacks=[StageCallback(own, 5)], **options)
        model = DisEnt(**MLP, lr=1e-2, swap_from=swap_from)
        trainer.fit(model, datamodule=pictures(8 // world_size))
        ends.append(state(model))
    return ends


def test_two_processes_agree_and_without_swapping_train_as_one(tmp_path: Path) -> None:
    first, second = run_ddp(as_launched, fit_share, tmp_path)
    for ours, theirs in zip(first, second, strict=True):
        assert_same(ours, theirs)
    swapped, plain = first
    _, one = fit_share(0, 1, tmp_path)
    assert_same(plain, one, rtol=1e-3, atol=1e-4)
    assert not torch.equal(swapped["network.head.weight"], plain["network.head.weight"])
