import csv
import logging
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from callbacks import StageCallback
from lightning_modules import Classifier, ConfigError
from lightning_modules.jtt import JTT
from lightning_modules.losses import cross_entropy
from lightning_modules.vanilla import Vanilla
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer

NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "backbone": "mlp",
    "backbone_args": {"hidden": [12], "image_size": 16, "divide_by_255": False},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Swapped(Pictures):
    """Attribute 1 goes with class 0 and attribute 0 with class 1."""

    @property
    def aligned_bias(self) -> tuple[int, ...]:
        return (1, 0, 2)


def make_helper(seed: int = 5) -> Classifier:
    L.seed_everything(seed, verbose=False)
    helper = Vanilla(**NETWORK)
    helper.configure_model()
    return helper


def make_jtt(helper: Classifier, **options: Any) -> JTT:
    L.seed_everything(0, verbose=False)
    module = JTT(**NETWORK, **options)
    module.helpers = {"identification": [helper]}
    return module


def wrongs(helper: Classifier, data: Pictures) -> Tensor:
    """Positions of the training images that the helper misclassifies."""
    batches = list(data.mining_dataloader(0, 1))
    right = [helper.eval()(batch["image"]).argmax(dim=1) == batch["label"] for batch in batches]
    return (~torch.cat(right)).nonzero().flatten()


def times(data: Pictures) -> Tensor:
    """How often each training image comes in an epoch, int64 [N]."""
    index = torch.cat([batch["index"] for batch in data.train_dataloader()])
    return torch.bincount(index, minlength=len(data.train_labels()))


@pytest.mark.parametrize("upweight", [1, 4])
def test_errors_of_the_helper_come_more_often(tmp_path: Path, upweight: int) -> None:
    data, helper = Pictures(batch_size=500), make_helper()
    before = {key: value.clone() for key, value in helper.state_dict().items()}
    trainer = make_trainer(tmp_path)
    trainer.fit(make_jtt(helper, upweight=upweight), datamodule=data)
    wrong = wrongs(helper, data)
    assert 5 < len(wrong) < 30
    expected = torch.ones(34, dtype=torch.int64)
    expected[wrong] = upweight
    assert times(data).tolist() == expected.tolist()
    assert all(torch.equal(value, before[key]) for key, value in helper.state_dict().items())


@pytest.mark.parametrize("kind", [Pictures, Swapped])
def test_size_precision_and_recall_are_logged(
    tmp_path: Path, kind: type[Pictures], caplog: pytest.LogCaptureFixture
) -> None:
    data, helper = kind(), make_helper()
    logger = CSVLogger(tmp_path, version=0)
    with caplog.at_level(logging.INFO, "diffubias"):
        make_trainer(tmp_path, logger=logger).fit(make_jtt(helper, upweight=2), datamodule=data)
    wrong = set(wrongs(helper, data).tolist())
    partner = data.aligned_bias
    pairs = zip(data.train_labels().tolist(), data.train_biases().tolist(), strict=True)
    conflict = {row for row, (label, bias) in enumerate(pairs) if bias != partner[label]}
    hits = len(wrong & conflict)
    losses = torch.zeros(34)
    with torch.no_grad():
        for batch in data.mining_dataloader(0, 1):
            losses[batch["index"]] = cross_entropy(helper(batch["image"]), batch["label"])
    assert 0 < hits < min(len(wrong), len(conflict))
    first = next(csv.DictReader((tmp_path / "lightning_logs/version_0/metrics.csv").open()))
    assert float(first["errors/count"]) == len(wrong)
    assert float(first["errors/precision"]) == pytest.approx(hits / len(wrong))
    assert float(first["errors/recall"]) == pytest.approx(hits / len(conflict))
    rates = [
        float(losses[i] > losses[j]) + 0.5 * float(losses[i] == losses[j])
        for i in conflict for j in range(34) if j not in conflict
    ]  # fmt: skip
    assert float(first["errors/auroc"]) == pytest.approx(sum(rates) / len(rates))
    told = f"error set: {len(wrong)} of 34 training images, {hits} of the {len(conflict)} in conflict with the bias"
    assert told in caplog.text


def test_great_losses_are_told_apart(tmp_path: Path) -> None:
    """Beyond 17 nats a sigmoid of them would be 1 throughout."""

    class Sure(Classifier):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 100 * super().forward(image)

    data, plain = Pictures(), make_helper()
    helper = Sure(**{**plain.hparams, "num_classes": 3})
    helper.configure_model()
    helper.load_state_dict(plain.state_dict())
    logger = CSVLogger(tmp_path, version=0)
    make_trainer(tmp_path, logger=logger).fit(make_jtt(helper, upweight=2), datamodule=data)
    first = next(csv.DictReader((tmp_path / "lightning_logs/version_0/metrics.csv").open()))
    losses = torch.zeros(34)
    with torch.no_grad():
        for batch in data.mining_dataloader(0, 1):
            losses[batch["index"]] = cross_entropy(helper(batch["image"]), batch["label"])
    conflict = data.train_biases() != data.train_labels()
    pairs = [(a > b) + 0.5 * (a == b) for a in losses[conflict].tolist() for b in losses[~conflict].tolist()]
    assert float(losses.max()) > 17
    assert float(first["errors/auroc"]) == pytest.approx(sum(pairs) / len(pairs))


def test_without_errors_it_is_plain_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, helper = Pictures(batch_size=64, augment="none"), make_helper()
    (batch,) = data.train_dataloader()
    optimizer = torch.optim.Adam(helper.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        helper.training_losses(batch)[1].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(wrongs(helper, data)) == 0
    plain = make_helper(0)
    make_trainer(tmp_path, 2).fit(plain, datamodule=data)
    module = make_jtt(helper)
    make_trainer(tmp_path, 2).fit(module, datamodule=data)
    assert "the error set is empty" in caplog.text
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in module.state_dict().items())


def test_no_helper_is_an_error_that_shows_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"uses: \{identification: erm\}"):
        make_trainer(tmp_path).fit(JTT(**NETWORK), datamodule=Pictures())


def test_a_helper_of_another_name_is_refused(tmp_path: Path) -> None:
    module = JTT(**NETWORK)
    module.helpers = {"identifcation": [make_helper()]}
    with pytest.raises(ConfigError, match="uses: identifcation means nothing to JTT: it knows identification"):
        make_trainer(tmp_path).fit(module, datamodule=Pictures())


def test_factor_under_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.upweight"):
        JTT(upweight=0)


def run(folder: Path, name: str, epochs: int, checkpoint: Path | None = None) -> Path:
    module = make_jtt(make_helper(), upweight=3)
    last = ModelCheckpoint(folder / name, "last", save_on_train_epoch_end=True)
    trainer = make_trainer(folder, epochs, callbacks=[StageCallback(folder / name, seed=3), last])
    trainer.fit(module, datamodule=Pictures(), ckpt_path=checkpoint, weights_only=True)
    return Path(last.best_model_path)


def test_a_resumed_fit_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", 3)
    rest = run(tmp_path, "rest", 3, run(tmp_path, "start", 1))
    states = [torch.load(path, weights_only=True) for path in (whole, rest)]
    assert states[0]["global_step"] == states[1]["global_step"] > 3 * 5
    assert all(torch.equal(value, states[1]["state_dict"][key]) for key, value in states[0]["state_dict"].items())


def count_ranks(rank: int, world_size: int, folder: Path) -> list[int]:
    data = Pictures((18, 12, 6), batch_size=4)
    trainer = make_trainer(folder, devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    trainer.fit(make_jtt(make_helper(), upweight=3), datamodule=data)
    return [int(number) for number in times(data)]


def test_two_processes_have_the_same_error_set(tmp_path: Path) -> None:
    one = torch.tensor(count_ranks(0, 1, tmp_path))
    assert set(one.tolist()) == {1, 3}
    first, second = (torch.tensor(counts) for counts in run_ddp(as_launched, count_ranks, tmp_path))
    # Together they see an epoch, of which few images come once more where it does not fill the last batch.
    more = first + second - one
    assert more.min() == 0
    assert more.sum() <= 3
