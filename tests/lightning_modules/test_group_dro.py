import copy
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from datamodules import Samples
from datamodules.samples import Split
from lightning_modules import Classifier, ConfigError
from lightning_modules.group_dro import GroupDRO
from tests.datamodules.toy import NAMES, Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, fit_staged, make_trainer
from tests.generators import write_synthetic

NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [12], "image_size": 16, "divide_by_255": False},
    "lr": 1e-2,
    "optimizer": torch.optim.SGD,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Unlabelled(Pictures):
    @property
    def bias_names(self) -> tuple[str, ...]:
        return ()

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        return None if samples is None else Samples(samples.images, samples.labels, np.full(len(samples), -1))


class PartlyLabelled(Pictures):
    """Of class 2 no training image has a bias label."""

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        if samples is not None:
            samples.biases[samples.labels == 2] = -1
        return samples


def built(seed: int = 0, **options: Any) -> GroupDRO:
    L.seed_everything(seed, verbose=False)
    module = GroupDRO(**{**NETWORK, **options})
    module.configure_model()
    return module


def make_helper() -> Classifier:
    L.seed_everything(5, verbose=False)
    helper = Classifier(**NETWORK)
    helper.configure_model()
    return helper.eval()


def straightforward(module: GroupDRO, data: Pictures, epochs: int, adjustment: float) -> tuple[Classifier, list[float]]:
    """The method as its algorithm is written: dictionaries of groups, one optimizer."""
    model = copy.deepcopy(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    labels, biases = data.train_labels().tolist(), data.train_biases().tolist()
    members = [[row for row in range(len(labels)) if (labels[row], biases[row]) == (g // 4, g % 4)] for g in range(12)]
    q = {group: 1 / sum(map(bool, members)) for group in range(12) if members[group]}
    loader: Any = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            losses = F.cross_entropy(model(batch["image"]), batch["label"], reduction="none")
            means = {}
            for group in q:
                here = [place for place, row in enumerate(batch["index"].tolist()) if row in members[group]]
                means[group] = losses[here].mean() if here else torch.tensor(0.0)
            for group in q:
                q[group] *= float(np.exp(0.5 * (means[group].item() + adjustment / len(members[group]) ** 0.5)))
            q = {group: value / sum(q.values()) for group, value in q.items()}
            optimizer.zero_grad()
            sum((q[group] * means[group] for group in q), torch.tensor(0.0)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model, [q.get(group, 0.0) for group in range(12)]


@pytest.mark.parametrize("adjustment", [0.0, 2.0])
def test_a_fit_is_the_straightforward_loop(tmp_path: Path, adjustment: float) -> None:
    module, data = built(step_size=0.5, adjustment=adjustment), Pictures()
    start = copy.deepcopy(module)
    make_trainer(tmp_path, 2).fit(module, datamodule=data)
    expected, weights = straightforward(start, data, 2, adjustment)
    torch.testing.assert_close(module.group_weights, torch.tensor(weights), rtol=1e-4, atol=1e-6)
    # Aligned and one conflicting attribute of each class exist, and no image without a known one.
    assert [weight > 0 for weight in weights] == [g % 4 != 3 and (g % 4 - g // 4) % 3 < 2 for g in range(12)]
    assert max(weights) > 2 * min(filter(None, weights))
    assert module.network is not None
    assert expected.network is not None
    for key, value in expected.network.state_dict().items():
        torch.testing.assert_close(module.network.state_dict()[key], value)
        assert not torch.allclose(start.state_dict()[f"network.{key}"], value, atol=1e-3)


def test_the_logged_loss_is_the_weighted_sum_of_group_means(tmp_path: Path) -> None:
    module, data = built(lr=0.0), Pictures(batch_size=64, augment="none")
    trainer = make_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    (batch,) = data.train_dataloader()
    losses = F.cross_entropy(module(batch["image"]), batch["label"], reduction="none")
    group = batch["label"] * 4 + batch["bias"]
    means = torch.stack([losses[group == g].mean() if (group == g).any() else torch.tensor(0.0) for g in range(12)])
    torch.testing.assert_close(trainer.logged_metrics["train/loss"], (module.group_weights * means).sum().detach())
    raised = torch.exp(0.01 * means) * (module.group_weights > 0)
    torch.testing.assert_close(module.group_weights, raised / raised.sum())


def start_weights(folder: Path, data: Pictures, **options: Any) -> list[float]:
    """Weights of the groups before the first step, as far as a step of next to no size shows them."""
    module = built(step_size=1e-9, **options)
    if options.get("groups") == "errors":
        module.helpers = {"amplifier": [make_helper()]}
    make_trainer(folder, limit_train_batches=1).fit(module, datamodule=data)
    return [round(weight, 6) for weight in module.group_weights.tolist()]


@pytest.mark.parametrize("split", [False, True])
def test_synthetic_images_are_a_group_of_each_class(tmp_path: Path, split: bool) -> None:
    data = PartlyLabelled(batch_size=64)
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [1, 2, 2], NAMES, 20)
    data.source = "both"
    # Real images fill two groups of class 0, two of class 1 and the group of class 2 without a known bias.
    filled = [0, 1, 5, 6, 11, *([12 + 7, 12 + 11] if split else [7])]
    expected = [0.0] * (24 if split else 12)
    for group in filled:
        expected[group] = round(1 / len(filled), 6)
    assert start_weights(tmp_path, data, split_synthetic=split) == expected


@pytest.mark.parametrize("threshold", [None, 1.2, 1e9])
def test_groups_by_the_errors_of_a_helper(tmp_path: Path, threshold: float | None) -> None:
    data = Unlabelled(batch_size=64)
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [1], NAMES, 20)
    data.source = "both"
    weights = start_weights(tmp_path, data, groups="errors", loss_threshold=threshold)
    (batch,) = data.mining_dataloader(0, 1)
    logits = make_helper()(batch["image"])
    wrong = logits.argmax(dim=1) != batch["label"]
    if threshold is not None:
        wrong &= F.cross_entropy(logits, batch["label"], reduction="none") > threshold
    filled = {*(batch["label"] * 3 + wrong.long()).tolist(), 1 * 3 + 2}
    assert weights == [round(1 / len(filled), 6) if group in filled else 0.0 for group in range(9)]
    assert len({group for group in filled if group % 3 == 1}) == (0 if threshold == 1e9 else 3)


class Counter(L.Callback):
    """Writes down the entry of every image that is drawn."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, _: int) -> None:
        self.drawn += (batch["index"] + batch["synthetic"] * 34).tolist()


@pytest.mark.parametrize(("source", "least"), [("real", 5), ("both", 8), ("synthetic", 3)])
def test_all_groups_are_drawn_equally_often(
    tmp_path: Path, source: Literal["real", "both", "synthetic"], least: int
) -> None:
    data = Pictures()
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [0, 0, 0, 0, 1, 2, 2], NAMES, 20)
    data.source = source
    module, counter = built(groups="errors", reweight_groups=True), Counter()
    module.helpers = {"amplifier": [make_helper()]}
    make_trainer(tmp_path, 100, callbacks=[counter], limit_val_batches=0).fit(module, datamodule=data)
    shares = torch.bincount(module._groups[counter.drawn], minlength=9) / len(counter.drawn)
    first = 34 if source == "synthetic" else 0
    sizes = torch.bincount(module._groups[first : None if source != "real" else 34], minlength=9)
    filled = sizes > 0
    assert int(filled.sum()) >= least
    assert sizes[filled].max() > 2 * sizes[filled].min()
    assert shares[filled].tolist() == pytest.approx([1 / int(filled.sum())] * int(filled.sum()), rel=0.15)
    data.setup("fit")  # another fit draws every image again
    again = [
        (int(row), bool(kind))
        for b in data.train_dataloader()
        for row, kind in zip(b["index"], b["synthetic"], strict=True)
    ]
    assert len(set(again)) == int(sizes.sum())


def test_without_bias_labels_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"images of Unlabelled have none: set model\.groups to errors") as error:
        make_trainer(tmp_path).fit(built(), datamodule=Unlabelled())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("biases", [None, [0, 1, 1, 0]])
def test_synthetic_images_alone_have_the_groups_that_their_prompts_name(
    biases: list[int] | None, tmp_path: Path
) -> None:
    data, module = Pictures(), built()
    data.synthetic_dir = write_synthetic(tmp_path / "synthetic", [0, 1, 2, 2], NAMES, 20, biases=biases)
    data.source = "synthetic"
    if biases is None:
        with pytest.raises(ConfigError, match="the synthetic images have none"):
            make_trainer(tmp_path).fit(module, datamodule=data)
        return
    make_trainer(tmp_path).fit(module, datamodule=data)
    weights = module.group_weights.reshape(3, -1)
    assert (weights > 0).nonzero().tolist() == [[0, 0], [1, 1], [2, 0], [2, 1]]
    assert weights.sum() == pytest.approx(1)


def test_without_helper_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"uses: \{amplifier: biased\}"):
        make_trainer(tmp_path).fit(built(groups="errors"), datamodule=Pictures())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"adjustment": -1.0}, "adjustment"),
        ({"loss_threshold": 1.0}, "loss_threshold"),
    ],
)
def test_settings_outside_their_range_are_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        GroupDRO(**options)


def run(folder: Path, name: str, epochs: int, checkpoint: Path | None = None, **options: Any) -> Path:
    """Fit until there are `epochs` epochs and return the last checkpoint."""
    module = built(seed=epochs if checkpoint else 0, step_size=0.1)
    return fit_staged(module, folder, name, epochs, ckpt_path=checkpoint, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_fit_ends_with_the_same_bytes(tmp_path: Path, precision: str) -> None:
    whole = run(tmp_path, "whole", 3, precision=precision)
    start = run(tmp_path, "start", 1, precision=precision)
    rest = run(tmp_path, "rest", 3, start, precision=precision)
    weights, others = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, rest))
    assert weights.keys() == others.keys()
    assert "group_weights" in weights
    assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_a_checkpoint_is_tested_and_loaded_alone(tmp_path: Path) -> None:
    path = run(tmp_path, "run", 1)
    (values,) = make_trainer(tmp_path).test(built(seed=8), datamodule=Pictures(), ckpt_path=path, verbose=False)
    loaded = GroupDRO.load_from_checkpoint(path, weights_only=True)
    assert [values] == make_trainer(tmp_path).test(loaded, datamodule=Pictures(), verbose=False)
    assert loaded.group_weights.sum() == pytest.approx(1)


class TwoAttributes(Pictures):
    @property
    def bias_names(self) -> tuple[str, ...]:
        return ("x", "y")

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        return None if samples is None else Samples(samples.images, samples.labels, samples.biases % 2)


def test_a_checkpoint_with_other_groups_is_refused(tmp_path: Path) -> None:
    path = run(tmp_path, "run", 1)
    with pytest.raises(ConfigError, match="the weights of 12 groups, but there are 9"):
        run(tmp_path, "other", 2, path, data=TwoAttributes())
    trainer = make_trainer(tmp_path)
    trainer.fit(Classifier(**NETWORK), datamodule=Pictures())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="GroupDRO did not write it"):
        make_trainer(tmp_path).test(built(), datamodule=Pictures(), ckpt_path=tmp_path / "a.ckpt")


def train_ranks(rank: int, world_size: int, folder: Path) -> dict[str, Tensor]:
    """What a fit with 8 images a step leaves; its 32 training images fill the steps."""
    module = built(step_size=0.5, adjustment=1.0)
    data = Pictures((18, 12, 6), batch_size=8 // world_size)
    trainer = make_trainer(folder, 3, devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    trainer.fit(module, datamodule=data)
    loss = trainer.logged_metrics["train/loss"].clone()
    return {**{key: value.clone() for key, value in module.state_dict().items()}, "loss": loss}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one = train_ranks(0, 1, tmp_path)
    first, second = run_ddp(as_launched, train_ranks, tmp_path)
    assert first.keys() == second.keys() == one.keys()
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4)
