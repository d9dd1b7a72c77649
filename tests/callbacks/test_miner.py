import logging

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from callbacks.synthesis import LossMiner
from callbacks.synthesis.miner import check_finite, mine_losses
from callbacks.synthesis.mining import precision
from lightning_modules.distributed import assembled
from lightning_modules.errors import ConfigError
from tests.callbacks.toy import ToyClassifier, ToyData

LOSSES = torch.tensor([0.5, 3.0, 3.0, 0.1, 2.0, 9.0])
LABELS = torch.tensor([0, 1, 0, 1, 0, 0])


def test_takes_the_largest_losses_of_each_class_hardest_first() -> None:
    assert LossMiner("class").select(LOSSES, LABELS, 2) == [5, 1, 2, 3]


def test_takes_the_largest_losses_of_the_set_ties_by_index() -> None:
    assert LossMiner("set").select(LOSSES, LABELS, 3) == [5, 1, 2]


@pytest.mark.parametrize("scope", ["class", "set"])
def test_k_larger_than_what_there_is_takes_all_and_warns(scope: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        chosen = LossMiner(scope).select(LOSSES, LABELS, 100)  # type: ignore[arg-type]
    assert sorted(chosen) == list(range(6))
    assert "exceeds" in caplog.text


def test_k_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.top_k"):
        LossMiner().select(LOSSES, LABELS, 0)


def test_ranking_by_true_gce_is_the_ranking_by_cross_entropy() -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 5
    loss = F.cross_entropy(logits, labels, reduction="none")
    gce = (1 - torch.exp(-loss.double()) ** 0.7) / 0.7
    assert LossMiner().select(loss, labels, 7) == LossMiner().select(gce, labels, 7)


def test_losses_are_those_of_evaluation_mode_in_float32_and_shards_agree() -> None:
    data, module = ToyData(), ToyClassifier()
    module.train()
    cpu = torch.device("cpu")
    whole = mine_losses(module, data.mining_dataloader(0, 1), cpu)
    shards = [mine_losses(module, data.mining_dataloader(rank, 3), cpu) for rank in range(3)]
    assert module.training
    module.eval()
    image = torch.stack([data.set[i]["image"] for i in range(40)])
    expected = F.cross_entropy(module(image), data.set.labels, reduction="none")
    losses, indices = (torch.cat(column) for column in zip(*shards, strict=True))
    torch.testing.assert_close(assembled(whole[1], whole[0], 40), expected, atol=2e-5, rtol=0)
    assert torch.equal(assembled(whole[1], whole[0], 40), assembled(indices, losses, 40))
    assert whole[0].dtype == torch.float32


def test_bfloat16_module_is_mined() -> None:
    data = ToyData()
    losses, _ = mine_losses(ToyClassifier().bfloat16(), data.mining_dataloader(0, 1), torch.device("cpu"))
    assert losses.dtype == torch.float32


def test_an_empty_shard_is_no_error() -> None:
    losses, indices = mine_losses(ToyClassifier(), [], torch.device("cpu"))
    assert len(losses) == len(indices) == 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_reported(wrong: float) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        check_finite(torch.tensor([1.0, wrong]))


def test_precision_counts_known_biases_only() -> None:
    items = [{"label": 0, "bias": 1}, {"label": 0, "bias": 0}, {"label": 0, "bias": -1}]
    assert precision(items, (0, 1, 2)) == 0.5
    assert precision([{"label": 0, "bias": -1}], (0, 1, 2)) is None
