import copy
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from torch import Tensor

from lightning_modules import Classifier
from lightning_modules.scoring import training_logits
from tests.datamodules.toy import Pictures
from tests.ddp import run_ddp
from tests.fitting import as_launched, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*number of training batches")


def make_helper() -> Classifier:
    """Has batch normalisation, so that scores in training mode would be others."""
    L.seed_everything(1, verbose=False)
    helper = Classifier(num_classes=3, backbone="smallresnet")
    helper.configure_model()
    with torch.no_grad():
        for _ in range(5):
            helper(torch.randn(8, 3, 16, 16))
    return helper.train()


class Student(Classifier):
    """Asks for the scores when its fit starts, and learns from them, as the methods do."""

    helper_names = ("teacher",)

    def __init__(self) -> None:
        super().__init__(num_classes=3, backbone="mlp", backbone_args={"hidden": [8], "image_size": 16})
        self.found = torch.empty(0)

    def on_fit_start(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):  # as around a training step in bf16-mixed
            self.found = training_logits(self, self.helpers["teacher"][0])

    def training_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self(batch["image"])
        return logits, ((logits - self.found[batch["index"]]) ** 2).mean(dim=1)


def asked(folder: Path, helper: Classifier, data: Pictures | None = None, **options: Any) -> Tensor:
    student = Student()
    student.helpers["teacher"] = [helper]
    trainer = make_trainer(folder, limit_val_batches=0, enable_checkpointing=False, **options)
    trainer.fit(student, datamodule=data or Pictures())
    assert trainer.global_step > 0
    return student.found


def directly(helper: Classifier) -> Tensor:
    """Scores [N, 3] of pictures that are neither shuffled nor augmented."""
    with torch.no_grad():
        batches = [helper.eval()(batch["image"]) for batch in Pictures().mining_dataloader(0, 1)]
    return torch.cat(batches)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_scores_are_those_of_a_direct_evaluation(tmp_path: Path, precision: str) -> None:
    helper = make_helper()
    scores = asked(tmp_path, helper, Pictures(augment="crop_flip"), precision=precision)
    assert scores.shape == (34, 3)
    assert scores.dtype == torch.float32
    assert not scores.is_inference()
    torch.testing.assert_close(scores, directly(helper))


def test_the_helper_is_left_as_it_was_and_is_no_part_of_the_student(tmp_path: Path) -> None:
    helper = make_helper()
    before = copy.deepcopy(helper.state_dict())
    asked(tmp_path, helper)
    after = helper.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {value.device.type for value in after.values()} == {"cpu"}
    assert not any(module.training for module in helper.modules())
    # Its parameters can still be trained: none became an inference tensor.
    helper(torch.randn(2, 3, 16, 16)).sum().backward()
    student = Student()
    student.configure_model()
    own = len(list(student.parameters())), len(student.state_dict())
    student.helpers["teacher"] = [helper]
    assert (len(list(student.parameters())), len(student.state_dict())) == own


def on_ranks(rank: int, world_size: int, folder: Path) -> Tensor:
    strategy = "ddp" if world_size > 1 else "auto"
    # 35 images for two processes: one has more than the other.
    return asked(folder, make_helper(), Pictures((21, 10, 8)), devices=world_size, strategy=strategy)


def test_two_processes_know_the_scores_of_one(tmp_path: Path) -> None:
    one = on_ranks(0, 1, tmp_path)
    assert len(one) == 35
    first, second = run_ddp(as_launched, on_ranks, tmp_path)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one)
