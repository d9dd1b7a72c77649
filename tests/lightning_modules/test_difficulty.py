import copy

import pytest
import torch
from torch import Tensor

from lightning_modules import ConfigError
from lightning_modules.difficulty import RelativeDifficulty
from tests.ddp import run_ddp

LABELS = torch.tensor([0, 1, 0, 1])


def arranged(labels: Tensor = LABELS, classes: int = 2, **options: float) -> RelativeDifficulty:
    difficulty = RelativeDifficulty(**options)  # type: ignore[arg-type]
    difficulty.arrange(labels, classes)
    return difficulty


def weigh(difficulty: RelativeDifficulty, rows: list[int], biased: list[float], debiased: list[float]) -> Tensor:
    index = torch.tensor(rows)
    weight: Tensor = difficulty(index, LABELS[index], torch.tensor(biased), torch.tensor(debiased))
    return weight


def averages(difficulty: RelativeDifficulty) -> Tensor:
    """Averages [2, N] in the order of the training set."""
    return difficulty.average[:, difficulty.place]


def test_the_first_loss_is_taken_as_it_is_and_the_following_ones_by_three_tenths() -> None:
    difficulty = arranged()
    weigh(difficulty, [3, 0], [2.0, 4.0], [1.0, 8.0])
    torch.testing.assert_close(averages(difficulty), torch.tensor([[4.0, 0, 0, 2], [8, 0, 0, 1]]))
    weigh(difficulty, [0, 2], [1.0, 0.5], [2.0, 0.25])
    expected = torch.tensor([[0.7 * 4 + 0.3 * 1, 0, 0.5, 2], [0.7 * 8 + 0.3 * 2, 0, 0.25, 1]])
    torch.testing.assert_close(averages(difficulty), expected)


def test_weights_are_those_computed_by_hand_with_the_maximum_over_the_whole_class() -> None:
    difficulty = arranged()
    # Alone in its class each image is the hardest of it for both networks: 1 / (1 + 1).
    torch.testing.assert_close(weigh(difficulty, [0, 1], [2.0, 1.0], [1.0, 3.0]), torch.tensor([0.5, 0.5]))
    # Image 0 is not in this batch, but holds the maximum of the class for the biased network, 2; image 2 the other.
    torch.testing.assert_close(weigh(difficulty, [2], [1.0], [4.0]), torch.tensor([(1 / 2) / (1 / 2 + 4 / 4)]))
    # Averages of image 0: 0.7 * 2 + 0.3 * 4 = 2.6 and 0.7 * 1 + 0.3 * 2 = 1.3.
    torch.testing.assert_close(weigh(difficulty, [0], [4.0], [2.0]), torch.tensor([1 / (1 + 1.3 / 4)]))


def test_without_the_maximum_the_averages_are_compared_directly() -> None:
    difficulty = arranged(class_max=False)
    torch.testing.assert_close(weigh(difficulty, [0, 3], [2.0, 1.0], [6.0, 1.0]), torch.tensor([0.25, 0.5]))


def test_equal_networks_give_one_half() -> None:
    difficulty = arranged()
    for losses in ([0.1, 3.0, 0.7, 2.0], [0.2, 1.0, 0.9, 0.1]):
        weight = weigh(difficulty, [0, 1, 2, 3], losses, losses)
    torch.testing.assert_close(weight, torch.full((4,), 0.5))


def test_what_only_the_biased_network_gets_wrong_weighs_one_and_the_reverse_nothing() -> None:
    weight = weigh(arranged(), [0, 2], [9.0, 1e-6], [1e-6, 9.0])
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_an_image_that_comes_twice_in_a_batch_keeps_its_greater_average() -> None:
    difficulty = arranged()
    weight = weigh(difficulty, [0, 0, 2], [1.0, 5.0, 1.0], [3.0, 2.0, 3.0])
    torch.testing.assert_close(averages(difficulty)[:, 0], torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(weight, torch.tensor([0.5, 0.5, 0.2 / 1.2]))
    weigh(difficulty, [0, 0], [0.0, 1.0], [0.0, 0.0])
    torch.testing.assert_close(averages(difficulty)[:, 0], torch.tensor([0.7 * 5 + 0.3, 0.7 * 3]))


def test_epsilon_is_added_to_the_maximum_of_the_biased_network_alone() -> None:
    difficulty = arranged(epsilon=1e-8)
    assert weigh(difficulty, [0], [1e-8], [1e-8]).item() == pytest.approx(0.5 / 1.5)


@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
def test_a_class_without_any_loss_weighs_nothing(epsilon: float) -> None:
    assert weigh(arranged(epsilon=epsilon), [0, 2], [0.0, 0.0], [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_classes_without_images_are_borne() -> None:
    difficulty = arranged(classes=4)
    assert weigh(difficulty, [1], [1.0], [3.0]).item() == pytest.approx(0.5)


def test_losses_in_half_precision_are_averaged_in_single() -> None:
    difficulty = arranged()
    losses = torch.tensor([1.0], dtype=torch.bfloat16)
    for _ in range(3):
        weight = difficulty(torch.tensor([0]), torch.tensor([0]), losses, losses)
    assert weight.dtype == difficulty.average.dtype == torch.float32


def test_averages_survive_a_checkpoint_and_the_arranging_after_it() -> None:
    difficulty = arranged()
    weigh(difficulty, [0, 1], [2.0, 1.0], [1.0, 3.0])
    again = RelativeDifficulty()
    again.resize(4)
    again.load_state_dict(copy.deepcopy(difficulty.state_dict()))
    again.arrange(LABELS, 2)
    for both in (difficulty, again):
        torch.testing.assert_close(weigh(both, [2, 0], [1.0, 1.0], [4.0, 4.0]), torch.tensor([10 / 27, 40 / 59]))


def test_averages_of_another_training_set_are_refused() -> None:
    difficulty = arranged()
    with pytest.raises(ConfigError, match="losses of 4 training images, but there are 5: go on with the data") as error:
        difficulty.arrange(torch.zeros(5, dtype=torch.int64), 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.ema must lie in \[0, 1\)"):
        RelativeDifficulty(decay)


STEPS = [
    ([0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]),
    ([2, 0, 3, 2], [5.0, 1.0, 0.5, 7.0], [0.1, 0.2, 0.3, 0.4]),
]


def steps(rank: int, world_size: int) -> tuple[list[list[float]], list[list[float]]]:
    """Weights of this process's share of every batch, and the averages after them all."""
    difficulty, mine = arranged(), slice(rank, None, world_size)
    weights = [weigh(difficulty, rows[mine], biased[mine], debiased[mine]) for rows, biased, debiased in STEPS]
    return [weight.tolist() for weight in weights], averages(difficulty).tolist()


def test_two_processes_hold_the_averages_of_one() -> None:
    weights, expected = steps(0, 1)
    ranks = run_ddp(steps)
    for rank, (own, held) in enumerate(ranks):
        assert own == [step[rank::2] for step in weights]
        assert held == expected
