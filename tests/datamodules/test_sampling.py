from typing import get_args

import numpy as np
import pytest
import torch.distributed as dist
from numpy.typing import NDArray

from datamodules.sampling import Mixing, TrainSampler, synthetic_per_batch
from lightning_modules.errors import ConfigError
from tests.ddp import run_ddp

MIXINGS: tuple[Mixing, ...] = get_args(Mixing)


def sampler(
    real: int,
    synthetic: int,
    mixing: Mixing = "concat",
    batch_size: int = 8,
    share: float = 0.5,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainSampler:
    return TrainSampler(
        np.arange(real),
        np.arange(real, real + synthetic),
        batch_size=batch_size,
        mixing=mixing,
        share=share,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def entries(one: TrainSampler, epoch: int = 0) -> NDArray[np.int64]:
    one.set_epoch(epoch)
    return np.array([entry for entry, _ in one])


def test_concat_visits_everything_once() -> None:
    one = sampler(30, 13)
    assert sorted(entries(one)) == list(range(43))
    assert len(one) == 43
    assert list(entries(one, 0)) != list(range(43))


def test_repeated_entries_come_more_often() -> None:
    one = TrainSampler(np.array([0, 1, 2, 1, 1]), np.array([3, 4]), batch_size=8)
    assert sorted(entries(one)) == [0, 1, 1, 1, 2, 3, 4]
    keys = [key for entry, key in one if entry == 1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("mixing", MIXINGS)
def test_the_stream_is_a_function_of_seed_and_epoch(mixing: Mixing) -> None:
    one, other = sampler(40, 20, mixing), sampler(40, 20, mixing)
    for epoch in (3, 0, 3):
        one.set_epoch(epoch)
        other.set_epoch(7)
        list(other)
        other.set_epoch(epoch)
        assert list(one) == list(other)
    assert list(entries(one, 0)) != list(entries(one, 1))
    assert list(entries(one, 0)) != list(entries(sampler(40, 20, mixing, seed=1), 0))


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize(("real", "synthetic"), [(30, 0), (0, 30)])
def test_one_kind_alone_is_a_plain_shuffle(mixing: Mixing, real: int, synthetic: int) -> None:
    assert list(entries(sampler(real, synthetic, mixing))) == list(entries(sampler(30, 0)))


def test_weighted_reaches_its_share() -> None:
    one = sampler(900, 100, "weighted", share=0.3)
    drawn = np.concatenate([entries(one, epoch) for epoch in range(20)])
    assert len(one) == 1000
    assert abs((drawn >= 900).mean() - 0.3) < 0.01
    counts = np.bincount(drawn, minlength=1000)
    assert abs(counts[:900].mean() - 20 * 1000 * 0.7 / 900) < 0.3
    assert abs(counts[900:].mean() - 20 * 1000 * 0.3 / 100) < 2


def drawing(
    weights: list[float], batch_size: int = 3, seed: int = 0, rank: int = 0, world_size: int = 1
) -> TrainSampler:
    return TrainSampler(
        np.array([0, 1, 2, 1, 3]),
        np.array([10, 11, 12]),
        batch_size=batch_size,
        weights=np.array(weights),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def test_weights_are_the_probabilities_of_the_entries() -> None:
    one = drawing([0.1, 0.2, 0.3, 0.05, 0, 0.15, 0, 0.2])
    drawn = np.concatenate([entries(one, epoch) for epoch in range(2000)])
    assert len(one) == 8
    counts = np.bincount(drawn, minlength=13) / len(drawn)
    # Entry 1 stands there twice, 0.2 and 0.05.
    expected = {0: 0.1, 1: 0.25, 2: 0.3, 10: 0.15, 12: 0.2}
    assert counts == pytest.approx([expected.get(entry, 0) for entry in range(13)], abs=0.01)


def test_weighted_draws_follow_from_seed_and_epoch_for_any_number_of_ranks() -> None:
    weights = [1 / 8] * 8
    alone, again = drawing(weights, batch_size=4), drawing(weights, batch_size=4)
    assert list(alone) == list(again)
    assert list(entries(alone, 1)) != list(entries(alone, 2))
    assert list(entries(drawing(weights, seed=1), 1)) != list(entries(alone, 1))
    alone.set_epoch(0)
    ranks = [list(drawing(weights, batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    assert [sample for pair in zip(*ranks, strict=True) for sample in pair] == list(alone)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("real", "synthetic"), [(60, 7), (61, 400)])
def test_batch_has_the_same_share_in_every_batch(real: int, synthetic: int, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        one = sampler(real, synthetic, "batch", share=0.25, rank=rank, world_size=world_size)
        order = entries(one)
        assert len(order) == len(one)
        assert len(order) % 8 == 0
        for batch in order.reshape(-1, 8):
            assert (batch >= real).sum() == 2
        seen.append(order)
    every = np.concatenate(seen)
    assert set(range(real)) <= set(every.tolist())
    counts = np.bincount(every, minlength=real + synthetic)
    assert counts[:real].max() <= 2
    assert counts[real:].max() - counts[real:].min() <= 1


def test_a_share_that_a_batch_cannot_hold() -> None:
    assert synthetic_per_batch(64, 0.25) == 16
    with pytest.raises(ConfigError, match=r"data\.synthetic_share=0\.01 .*data\.batch_size=8"):
        synthetic_per_batch(8, 0.01)
    with pytest.raises(ConfigError, match=r"synthetic_share"):
        sampler(10, 10, "batch", batch_size=1)


@pytest.mark.parametrize("mixing", ["concat", "weighted"])
@pytest.mark.parametrize("count", [48, 50])
def test_ranks_share_the_epoch_of_one_process(mixing: Mixing, count: int) -> None:
    whole = sampler(count - 10, 10, mixing, batch_size=20)
    whole.set_epoch(2)
    alone = list(whole)
    shards = [sampler(count - 10, 10, mixing, batch_size=5, rank=rank, world_size=4) for rank in range(4)]
    for shard in shards:
        shard.set_epoch(2)
    parts = [list(shard) for shard in shards]
    assert {len(part) for part in parts} == {len(shards[0])}
    together = [sample for group in zip(*parts, strict=True) for sample in group]
    if mixing == "concat":
        # the order and the augmentation are those of one process; padding repeats from the start
        assert together[:count] == alone[: len(together)]
        assert set(range(count)) == {entry for entry, _ in together}
        assert len(together) - count < 4
    elif count % 4 == 0:
        assert together == alone


def test_two_ranks_have_the_batches_of_one_with_twice_the_size() -> None:
    whole = sampler(48, 100, "batch", batch_size=8)
    halves = [list(sampler(48, 100, "batch", batch_size=4, rank=rank, world_size=2)) for rank in range(2)]
    alone = list(whole)
    for number in range(len(alone) // 8):
        batch = {entry for entry, _ in alone[8 * number : 8 * number + 8]}
        pair = {entry for half in halves for entry, _ in half[4 * number : 4 * number + 4]}
        assert {entry for entry in batch if entry < 48} == {entry for entry in pair if entry < 48}


def test_no_last_batch_of_one() -> None:
    assert len(sampler(17, 0)) == 18
    order = entries(sampler(17, 0)).tolist()
    assert set(order) == set(range(17))
    assert order[17] == order[0]
    assert len(sampler(18, 0)) == 18
    assert len(sampler(1, 0)) == 1
    assert len(sampler(5, 0, batch_size=1)) == 5


def test_more_ranks_than_samples() -> None:
    parts = [entries(sampler(3, 0, rank=rank, world_size=5)).tolist() for rank in range(5)]
    assert [len(part) for part in parts] == [1] * 5
    assert {entry for part in parts for entry in part} == {0, 1, 2}


def gather(rank: int, world_size: int, mixing: Mixing) -> list[list[tuple[int, int]]]:
    one = sampler(50, 21, mixing, batch_size=4, rank=rank, world_size=world_size)
    one.set_epoch(1)
    everything: list[list[tuple[int, int]]] = [[] for _ in range(world_size)]
    dist.all_gather_object(everything, list(one))
    return everything


@pytest.mark.parametrize("mixing", MIXINGS)
def test_real_processes_draw_what_is_computed_in_one(mixing: Mixing) -> None:
    results = run_ddp(gather, mixing)
    expected = []
    for rank in range(2):
        one = sampler(50, 21, mixing, batch_size=4, rank=rank, world_size=2)
        one.set_epoch(1)
        expected.append(list(one))
    assert results == [expected, expected]
    # no two samples of an epoch are augmented alike
    keys = [key for part in expected for _, key in part]
    assert len(set(keys)) == len(keys)
