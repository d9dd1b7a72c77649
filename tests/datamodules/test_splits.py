from collections import Counter

import numpy as np
import pytest
import torch

from datamodules import Samples
from datamodules.samples import Split, carve
from lightning_modules import GroupTable
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.datamodules.toy import Pictures, Unlabelled


def test_carve_is_stratified_seeded_and_leaves_something_of_everything() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 30, 2, 1])
    kept, held_out = carve(labels, 0.1, seed=3)
    assert sorted([*kept, *held_out]) == list(range(133))
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 3, 1, 0]
    assert (carve(labels, 0.1, seed=3)[1] == held_out).all()
    assert (carve(labels, 0.1, seed=4)[1] != held_out).any()


def test_split_sizes_and_properties() -> None:
    module = Pictures()
    module.setup("fit")
    module.setup("fit")
    module.setup(None)
    assert sorted(module.loads) == ["test", "train", "val"]
    assert module.num_classes == 3
    assert module.has_bias
    assert torch.bincount(module.train_labels()).tolist() == [18, 9, 7]
    assert module.train_biases().shape == (34,)
    assert len(everything(module.val_dataloader(), "index")) == 4
    assert everything(module.test_dataloader(), "index").tolist() == list(range(12))


def test_own_validation_set_is_used() -> None:
    module = Pictures(with_val=True)
    assert len(module.train_labels()) == 38
    assert everything(module.val_dataloader(), "index").tolist() == list(range(12))


def test_index_is_the_position_in_the_split() -> None:
    module = Pictures(augment="none")
    labels, biases = module.train_labels(), module.train_biases()
    for batch in module.train_dataloader():
        assert batch["label"].tolist() == labels[batch["index"]].tolist()
        assert batch["bias"].tolist() == biases[batch["index"]].tolist()
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            expected = torch.from_numpy(np.asarray(module.source_image(index)).copy()).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_mining_visits_the_training_split_once_without_augmentation(world_size: int) -> None:
    module = Pictures()
    seen: list[int] = []
    for rank in range(world_size):
        loader = module.mining_dataloader(rank, world_size, batch_size=4)
        share = everything(loader, "index").tolist()
        assert share == list(range(rank, 34, world_size))
        seen += share
        for batch in loader:
            first = np.asarray(module.source_image(int(batch["index"][0])))
            assert abs(float(batch["image"][0].mean()) - (first.mean() / 127.5 - 1)) < 1e-4
    assert sorted(seen) == list(range(34))


def test_the_watched_test_set_is_the_second_validation_loader() -> None:
    module = Pictures(watch_test=True)
    module.setup("fit")
    assert sorted(module.loads) == ["test", "train", "val"]
    validation, test = module.val_dataloader()
    assert len(everything(validation, "index")) == 4
    assert everything(test, "index").tolist() == list(range(12))
    plain = Pictures()
    plain.setup("fit")
    assert sorted(plain.loads) == ["train", "val"]


def table_of(count: list[int], correct: list[int], biases: int) -> GroupTable:
    """Counts of groups in the order of label and bias; without biases of classes."""
    numbers = torch.arange(len(count))
    known = biases > 0
    label, bias = (numbers // biases, numbers % biases) if known else (numbers, torch.full_like(numbers, -1))
    return GroupTable(label, bias, torch.tensor(count), torch.tensor(correct))


def test_adjusted_accuracy_weighs_groups_by_their_training_shares() -> None:
    module = Pictures(with_val=True)
    labels, biases = module.train_labels().tolist(), module.train_biases().tolist()
    size = Counter(zip(labels, biases, strict=True))
    assert size == {(0, 0): 16, (0, 1): 4, (1, 1): 8, (1, 2): 2, (2, 2): 7, (2, 0): 1}
    table = table_of([4, 4, 0, 5, 2, 2, 10, 3, 1], [1, 2, 0, 5, 1, 0, 3, 3, 1], 3)
    scores = module.group_scores(table)
    expected = (16 * 1 / 4 + 4 * 2 / 4 + 8 * 1 / 2 + 2 * 0 + 1 * 3 / 10 + 7 * 1) / 38
    assert scores.keys() == {"adjusted"}
    assert scores["adjusted"].item() == pytest.approx(expected)
    # A training group that the evaluated set lacks leaves its share to the others.
    lacking = table_of([0, 4, 0, 5, 2, 2, 10, 3, 1], [0, 2, 0, 5, 1, 0, 3, 3, 1], 3)
    assert module.group_scores(lacking)["adjusted"].item() == pytest.approx((expected * 38 - 4) / 22)


def test_without_bias_labels_nothing_is_adjusted() -> None:
    module = Unlabelled()
    assert module.group_scores(table_of([4, 4, 4], [1, 2, 3], 0)) == {}
    assert module.loads == []
    # The labels of the test set alone may be missing.
    assert Pictures().group_scores(table_of([4, 4, 4], [1, 2, 3], 0)) == {}


def test_the_attribute_that_goes_with_a_class_has_its_number() -> None:
    assert Pictures().aligned_bias == (0, 1, 2)


def test_a_class_without_samples_is_named() -> None:
    with pytest.raises(ConfigError, match="class 'b' of Pictures has no training sample"):
        Pictures((5, 0, 5)).setup("fit")


class Empty(Pictures):
    def load(self, split: Split) -> Samples | None:
        return None


def test_an_empty_split_is_named() -> None:
    with pytest.raises(ConfigError, match="train split of Empty has no sample"):
        Empty().setup("fit")
