import pytest
import torch
from torch import Tensor

from lightning_modules.distributed import assembled, gathered, is_distributed, rank, summed, world_size
from tests.ddp import RankError, run_ddp


def test_alone_nothing_is_exchanged() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not is_distributed()
    assert (rank(), world_size()) == (0, 1)
    assert gathered(values).tolist() == [1.0, 2.0]
    assert summed(values).tolist() == [1.0, 2.0]
    assert not gathered(values).requires_grad
    assert not summed(values).requires_grad
    summed(values).zero_()
    assert values.tolist() == [1.0, 2.0]
    assert assembled(torch.tensor([2, 0, 1]), torch.tensor([5.0, 6.0, 7.0]), 3).tolist() == [6.0, 7.0, 5.0]


def exchange(number: int, count: int) -> tuple[tuple[bool, int, int], Tensor, Tensor, Tensor, Tensor]:
    rows = torch.arange(2) + 10 * number
    # Not contiguous: the columns of a matrix.
    matrix = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True) + 10 * number
    share = torch.arange(number, 5, count)
    whole = assembled(share, torch.stack((share, share**2), dim=1).float(), 5)
    return (is_distributed(), rank(), world_size()), gathered(rows), gathered(matrix.T), summed(rows), whole


def test_two_processes_exchange_in_the_order_of_their_ranks() -> None:
    first, second = run_ddp(exchange)
    assert first[0] == (True, 0, 2)
    assert second[0] == (True, 1, 2)
    for _, rows, columns, total, whole in (first, second):
        assert rows.tolist() == [0, 1, 10, 11]
        assert columns.tolist() == [[1, 4], [2, 5], [3, 6], [11, 14], [12, 15], [13, 16]]
        assert not columns.requires_grad
        assert total.tolist() == [10, 12]
        assert whole.tolist() == [[0, 0], [1, 1], [2, 4], [3, 9], [4, 16]]


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_shares_that_miss_or_repeat_a_sample_are_an_error(index: list[int]) -> None:
    with pytest.raises(RuntimeError, match="for 3 samples"):
        assembled(torch.tensor(index), torch.zeros(len(index)), 3)


def overlap(number: int, count: int) -> Tensor:
    return assembled(torch.arange(2), torch.zeros(2), 4)


def test_shares_that_overlap_are_an_error_in_every_process() -> None:
    with pytest.raises(RankError, match="4 values for 4 samples"):
        run_ddp(overlap)
