import logging
import pickle

import pytest
import torch
from torch import Tensor

from lightning_modules import GroupMetrics
from tests.ddp import run_ddp

CLASSES = 3


def make_records(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [N, 3], label, bias and index [N]."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count,), generator=generator)
    bias = torch.randint(CLASSES, (count,), generator=generator)
    logits = torch.randn(count, CLASSES, generator=generator)
    logits[torch.arange(count), bias] += 1.0
    return logits, label, bias, torch.arange(count)


def by_hand(logits: Tensor, label: Tensor, bias: Tensor) -> dict[str, float]:
    right = [bool(a == b) for a, b in zip(logits.argmax(1), label, strict=True)]
    rows = list(zip(label.tolist(), bias.tolist(), right, strict=True))

    def mean(kept: list[bool]) -> float:
        return sum(kept) / len(kept)

    cells = [mean([r for y, b, r in rows if (y, b) == cell]) for cell in {(y, b) for y, b, _ in rows}]
    return {
        "accuracy": mean(right),
        "worst_class": min(mean([r for y, _, r in rows if y == c]) for c in set(label.tolist())),
        "aligned": mean([r for y, b, r in rows if y == b]),
        "conflict": mean([r for y, b, r in rows if y != b]),
        "worst_group": min(cells),
        "balanced": mean_of(cells),
    }


def mean_of(values: list[float]) -> float:
    return sum(values) / len(values)


def as_floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_values_are_those_counted_by_hand() -> None:
    logits, label, bias, index = make_records(200)
    metric = GroupMetrics(CLASSES)
    for start in range(0, 200, 7):
        part = slice(start, start + 7)
        metric.update(logits[part], label[part], bias[part], index[part])
    assert as_floats(metric.compute()) == pytest.approx(by_hand(logits, label, bias))
    table = metric.groups()
    assert table.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table.bias.tolist() == [0, 1, 2] * 3
    assert table.count.sum() == 200
    cell = (label == 1) & (bias == 2)
    assert table.count[5] == cell.sum()
    assert table.accuracy[5].item() == pytest.approx((logits.argmax(1) == 1)[cell].float().mean().item())


def test_repeated_samples_count_once_and_unnumbered_ones_each_time() -> None:
    logits, label, bias, index = make_records(20)
    metric = GroupMetrics(CLASSES)
    metric.update(logits, label, bias, index)
    once = as_floats(metric.compute())
    metric.update(logits[:9], label[:9], bias[:9], index[:9])
    assert as_floats(metric.compute()) == once
    metric.reset()
    metric.update(logits, label, bias, torch.full_like(index, -1))
    assert metric.groups().count.sum() == 20


def test_without_bias_labels_only_label_free_values() -> None:
    logits, label, bias, index = make_records(50)
    metric = GroupMetrics(CLASSES)
    metric.update(logits, label, torch.full_like(bias, -1), index)
    assert set(metric.compute()) == {"accuracy", "worst_class"}
    table = metric.groups()
    assert table.label.tolist() == [0, 1, 2]
    assert table.bias.tolist() == [-1, -1, -1]
    assert table.count.tolist() == torch.bincount(label).tolist()


def test_samples_of_unknown_bias_stay_out_of_the_groups() -> None:
    logits, label, bias, index = make_records(100)
    bias = torch.where(index < 40, -1, bias)
    metric = GroupMetrics(CLASSES)
    metric.update(logits, label, bias, index)
    expected = by_hand(logits[40:], label[40:], bias[40:])
    values = as_floats(metric.compute())
    assert values["accuracy"] == pytest.approx((logits.argmax(1) == label).float().mean().item())
    assert {k: values[k] for k in ("aligned", "worst_group")} == pytest.approx(
        {k: expected[k] for k in ("aligned", "worst_group")}
    )


def test_no_aligned_sample_means_no_aligned_value(caplog: pytest.LogCaptureFixture) -> None:
    logits, label, _, index = make_records(60)
    metric = GroupMetrics(CLASSES, num_biases=4, name="test")
    with caplog.at_level(logging.INFO, logger="diffubias"):
        for _ in range(2):
            metric.update(logits, label, (label + 1) % CLASSES, index)
            values = metric.compute()
            metric.reset()
    assert set(values) == {"accuracy", "worst_class", "conflict", "worst_group", "balanced"}
    assert values["conflict"] == values["accuracy"]
    # An empty group would have made this 0.
    assert values["worst_group"] == values["worst_class"] > 0
    assert [record.getMessage() for record in caplog.records] == [
        "test: 9 of 12 groups (label, bias) have no sample and are left out: "
        "(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3), (2, 1), (2, 2), ..."
    ]


@pytest.mark.parametrize(
    ("bias", "shown"),
    [
        ([0, 1], "2 of 4 groups (label, bias) have no sample and are left out: (cat, snow), (dog, grass)"),
        ([-1, -1], "1 of 3 classes have no sample and are left out: fox"),
    ],
)
def test_empty_groups_are_named(bias: list[int], shown: str, caplog: pytest.LogCaptureFixture) -> None:
    names = ("cat", "dog") if bias[0] >= 0 else ("cat", "dog", "fox")
    metric = GroupMetrics(len(names), name="test", class_names=names, bias_names=("grass", "snow"))
    metric.update(torch.eye(len(names))[:2], torch.arange(2), torch.tensor(bias), torch.arange(2))
    with caplog.at_level(logging.INFO, "diffubias"):
        metric.compute()
    assert [record.getMessage() for record in caplog.records] == [f"test: {shown}"]


def test_no_sample_gives_no_value() -> None:
    metric = GroupMetrics(CLASSES)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == {}


def test_half_precision_logits_and_pickling() -> None:
    logits, label, bias, index = make_records(30)
    metric: GroupMetrics = pickle.loads(pickle.dumps(GroupMetrics(CLASSES)))
    metric.update(logits.bfloat16(), label, bias, index)
    assert metric.groups().count.sum() == 30


def sharded(rank: int, world_size: int) -> tuple[list[dict[str, float]], list[list[int]]]:
    """Metrics over padded shards, uneven shards, and a shard that is empty; and the counts of the groups."""
    logits, label, bias, index = make_records(37)
    padded = torch.arange(rank, 38, world_size) % 37
    uneven = torch.arange(0, 11) if rank == 0 else torch.arange(11, 37)
    alone = torch.arange(37) if rank == 0 else torch.arange(0)
    results, counts = [], []
    metric = GroupMetrics(CLASSES)
    for part in (padded, uneven, alone):
        for start in range(0, len(part), 5):
            few = part[start : start + 5]
            metric.update(logits[few], label[few], bias[few], index[few])
        results.append(as_floats(metric.compute()))
        # After compute this must not wait for the other process.
        counts.append(metric.groups().count.tolist() if rank == 0 else [])
        metric.reset()
    return results, counts


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_count_as_one() -> None:
    (one, _), (two, counts) = sharded(0, 1), run_ddp(sharded)[0]
    expected = one[0]
    assert two == [expected] * 3
    assert [sum(c) for c in counts] == [37] * 3
    assert expected == pytest.approx(by_hand(*make_records(37)[:3]))


def test_both_processes_get_the_same_values() -> None:
    first, second = run_ddp(sharded)
    assert first[0] == second[0]


def test_aligned_is_what_the_data_say_goes_with_a_class() -> None:
    logits = torch.eye(3)[[0, 0, 1, 2]]
    label, bias = torch.tensor([0, 1, 1, 2]), torch.tensor([3, 3, 1, 0])
    metric = GroupMetrics(CLASSES, num_biases=4, aligned_bias=(3, 1, 0))
    metric.update(logits, label, bias, torch.arange(4))
    values = as_floats(metric.compute())
    # Only the second picture is wrong, and only it is in conflict.
    assert (values["aligned"], values["conflict"], values["accuracy"]) == (1.0, 0.0, 0.75)
    plain = GroupMetrics(CLASSES, num_biases=4)
    plain.update(logits, label, bias, torch.arange(4))
    assert plain.compute()["aligned"] == 1.0
    assert plain.compute()["conflict"].item() == pytest.approx(2 / 3)
