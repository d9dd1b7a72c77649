import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules import Classifier, ConfigError, LfF
from lightning_modules.bias_ensemble import amplified_set, inside
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import make_trainer

NETWORK: dict[str, Any] = {"num_classes": 3, "backbone": "mlp", "backbone_args": {"hidden": [8], "image_size": 16}}

pytestmark = pytest.mark.filterwarnings("ignore:.*number of training batches")


def make_ensemble(count: int = 5) -> list[Classifier]:
    members = []
    for seed in range(count):
        L.seed_everything(seed, verbose=False)
        member = Classifier(**{**NETWORK, "backbone_args": {**NETWORK["backbone_args"], "divide_by_255": False}})
        member.configure_model()
        members.append(member)
    return members


class Student(Classifier):
    """Asks for the set when its fit starts, as the methods do."""

    def __init__(self, ensemble: Sequence[Classifier], confidence: float, agreement: int) -> None:
        super().__init__(**NETWORK)
        self.found: Tensor | None = None
        self._ask = (list(ensemble), confidence, agreement)

    def on_fit_start(self) -> None:
        self.found = amplified_set(self, *self._ask)


def ask(folder: Path, ensemble: Sequence[Classifier], confidence: float, agreement: int) -> list[bool]:
    student = Student(ensemble, confidence, agreement)
    make_trainer(folder, limit_train_batches=1, limit_val_batches=0, enable_checkpointing=False).fit(
        student, datamodule=Pictures()
    )
    assert student.found is not None
    return student.found.tolist()


def votes_by_hand(ensemble: Sequence[Classifier], confidence: float) -> list[int]:
    """How many members mark each training image, one picture after the other."""
    data = Pictures()
    labels = data.train_labels().tolist()
    votes = []
    for index, label in enumerate(labels):
        image = torch.from_numpy(np.asarray(data.source_image(index)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            sure = [member(image).softmax(dim=1)[0, label] > confidence for member in ensemble]
        votes.append(int(sum(sure)))
    return votes


@pytest.mark.parametrize("agreement", [1, 3, 5])
def test_an_image_is_in_the_set_if_enough_members_are_sure_of_its_class(tmp_path: Path, agreement: int) -> None:
    ensemble = make_ensemble()
    votes = votes_by_hand(ensemble, 0.34)
    expected = [count >= agreement for count in votes]
    assert len(set(votes)) > 3
    assert ask(tmp_path, ensemble, 0.34, agreement) == expected
    assert 0 < sum(expected) < 34


@pytest.mark.parametrize("agreement", [0, 4])
def test_more_agreement_than_members_is_refused(tmp_path: Path, agreement: int) -> None:
    module = LfF(**NETWORK, agreement=agreement)
    module.helpers = {"ensemble": make_ensemble(3)}
    with pytest.raises(ConfigError, match=rf"model\.agreement .* between 1 and the 3 members .*, but is {agreement}\."):
        make_trainer(tmp_path).fit(module, datamodule=Pictures())


def test_the_size_of_the_set_is_told_and_an_empty_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="diffubias"):
        ask(tmp_path, make_ensemble(3), 0.0, 3)
        ask(tmp_path, make_ensemble(3), 1.0, 1)
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "diffubias"]
    assert told[0] == ("INFO", "bias-amplified set: 34 of 34 training images")
    assert told[1] == ("INFO", "bias-amplified set: 0 of 34 training images")
    assert [level for level, _ in told] == ["INFO", "INFO", "WARNING"]
    assert "model.confidence" in told[2][1]


def test_the_mean_is_that_of_the_masked_samples() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    kept = inside(losses, torch.tensor([True, False, True, False]))
    assert kept.tolist() == [2.0, 0.0, 8.0, 0.0]
    torch.autograd.backward(kept.mean())
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_a_batch_without_masked_samples_teaches_nothing() -> None:
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = inside(losses, torch.tensor([False, False])).mean()
    torch.autograd.backward(mean)
    assert mean.item() == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.0, 0.0]


def share(rank: int, world_size: int, masks: list[list[bool]]) -> float:
    losses = torch.tensor([1.0, 2.0]) if rank == 0 else torch.tensor([4.0, 9.0])
    return float(inside(losses, torch.tensor(masks[rank])).mean())


@pytest.mark.parametrize(
    ("masks", "mean"),
    [
        ([[True, True], [True, False]], 7 / 3),
        ([[False, False], [True, False]], 4),
        ([[False, False], [False, False]], 0),
    ],
)
def test_the_mean_over_processes_is_that_of_all_their_masked_samples(masks: list[list[bool]], mean: float) -> None:
    assert sum(run_ddp(share, masks)) / 2 == pytest.approx(mean)
