"""Real, synthetic and repeated images in one training set."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import Source
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.datamodules.toy import NAMES, Pictures, make_both
from tests.generators import picture, write_selection, write_synthetic


def test_synthetic_images_join_the_training_set_only(tmp_path: Path) -> None:
    module = make_both(tmp_path)
    batches = list(module.train_dataloader())
    synthetic = torch.cat([batch["synthetic"] for batch in batches])
    index = torch.cat([batch["index"] for batch in batches])
    label = torch.cat([batch["label"] for batch in batches])
    bias = torch.cat([batch["bias"] for batch in batches])
    assert len(synthetic) == 38
    assert sorted(index[synthetic].tolist()) == [0, 1, 2, 3]
    assert sorted(index[~synthetic].tolist()) == list(range(34))
    assert [int(label[synthetic][index[synthetic] == i]) for i in range(4)] == [0, 1, 2, 2]
    assert bias[synthetic].tolist() == [-1] * 4
    for loader in (module.val_dataloader(), module.test_dataloader(), module.mining_dataloader(0, 1)):
        assert not any(batch["synthetic"].any() for batch in loader)


def test_synthetic_images_have_the_pixels_of_their_files(tmp_path: Path) -> None:
    module = make_both(tmp_path, augment="none")
    module.source = "synthetic"
    for batch in module.train_dataloader():
        assert batch["synthetic"].all()
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            pixels = np.asarray(picture(index, (20, 20), seed=1).resize((16, 16), 2)).copy()
            expected = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_the_manifest_is_read_when_training_starts(tmp_path: Path) -> None:
    module = Pictures()
    module.source = "both"
    module.synthetic_dir = tmp_path
    module.setup("fit")
    with pytest.raises(ConfigError, match="no manifest"):
        module.train_dataloader()
    write_synthetic(tmp_path, [1, 1], NAMES)
    assert len(everything(module.train_dataloader(), "index")) == 36


def test_wrong_manifests_are_refused(tmp_path: Path) -> None:
    module = make_both(tmp_path)
    write_synthetic(tmp_path / "synthetic", [0], ("z", "b", "c"))
    with pytest.raises(ConfigError, match="label 0 is 'a' in this data set"):
        module.train_dataloader()
    module.synthetic_dir = None
    with pytest.raises(ConfigError, match="data: both needs synthetic images"):
        module.train_dataloader()


def test_a_broken_synthetic_image_is_named_with_its_remedy(tmp_path: Path) -> None:
    module = make_both(tmp_path)
    (tmp_path / "synthetic" / "images" / "000002.png").write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"000002\.png .*delete it and .*metadata\.jsonl, then run the same command"):
        list(module.train_dataloader())


def test_mined_images_are_repeated_beside_synthetic_ones(tmp_path: Path) -> None:
    module = make_both(tmp_path, mined_repeat=3)
    write_selection(tmp_path / "synthetic", [4, 30])
    batches = list(module.train_dataloader())
    synthetic = torch.cat([batch["synthetic"] for batch in batches])
    counts = torch.bincount(torch.cat([batch["index"] for batch in batches])[~synthetic])
    assert int(synthetic.sum()) == 4
    assert counts.tolist() == [4 if index in (4, 30) else 1 for index in range(34)]
    module.source = "real"
    assert sorted(everything(module.train_dataloader(), "index").tolist()) == list(range(34))


def test_repeating_alone_is_the_control(tmp_path: Path) -> None:
    module = Pictures(mined_repeat=2)
    module.source, module.synthetic_dir = "both", tmp_path
    with pytest.raises(ConfigError, match="the mined images are needed"):
        module.train_dataloader()
    write_selection(tmp_path, [0])
    counts = torch.bincount(torch.tensor(everything(module.train_dataloader(), "index").tolist()))
    assert counts.tolist() == [3] + [1] * 33
    # a synthesis that was begun and has no manifest is not taken for the control
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError, match="no manifest"):
        module.train_dataloader()


def test_a_selection_of_other_data(tmp_path: Path) -> None:
    module = make_both(tmp_path, mined_repeat=1)
    write_selection(tmp_path / "synthetic", [34])
    with pytest.raises(ConfigError, match="names image 34 but the training split has 34"):
        module.train_dataloader()


def counted(module: Pictures) -> list[int]:
    """How often each real training image comes in an epoch."""
    batches = list(module.train_dataloader())
    index = torch.cat([batch["index"][~batch["synthetic"]] for batch in batches])
    return torch.bincount(index, minlength=34).tolist()


@pytest.mark.parametrize("source", ["real", "both"])
def test_entries_that_a_module_asked_for_come_more_often(tmp_path: Path, source: Source) -> None:
    module = make_both(tmp_path)
    module.source = source
    module.setup("fit")
    module.repeat_entries(torch.tensor([4, 30]), 3)
    assert counted(module) == [3 if index in (4, 30) else 1 for index in range(34)]
    module.repeat_entries(torch.tensor([7]), 2)
    assert counted(module) == [2 if index == 7 else 1 for index in range(34)]
    module.repeat_entries(torch.arange(34), 1)
    assert counted(module) == [1] * 34


def test_repeated_entries_are_those_of_one_fit(tmp_path: Path) -> None:
    module = make_both(tmp_path, mined_repeat=1)
    write_selection(tmp_path / "synthetic", [4])
    module.setup("fit")
    module.repeat_entries(torch.tensor([4, 5]), 3)
    assert counted(module) == [1] * 4 + [4, 3] + [1] * 28
    module.source = "synthetic"
    assert sorted(everything(module.train_dataloader(), "index").tolist()) == [0, 1, 2, 3]
    # Testing between the fits changes nothing; the next fit starts anew.
    module.source = "real"
    module.setup("test")
    assert counted(module) == [1] * 4 + [3, 3] + [1] * 28
    module.setup("fit")
    assert counted(module) == [1] * 34


@pytest.mark.parametrize("source", ["real", "both", "synthetic"])
def test_the_table_has_the_entries_of_the_batches(tmp_path: Path, source: Source) -> None:
    module = make_both(tmp_path)
    module.source = source
    table = module.train_table()
    assert (len(table), table.real) == (34 if source == "real" else 38, 34)
    assert (table.labels[:34] == module.train_labels()).all()
    assert (table.biases[:34] == module.train_biases()).all()
    assert table.labels[34:].tolist() == ([] if source == "real" else [0, 1, 2, 2])
    seen = set()
    for batch in module.train_dataloader():
        rows = batch["index"] + batch["synthetic"] * table.real
        assert torch.equal(table.labels[rows], batch["label"])
        assert torch.equal(table.biases[rows], batch["bias"])
        seen |= set(rows.tolist())
    assert len(seen) == {"real": 34, "both": 38, "synthetic": 4}[source]


def test_fixed_share_a_batch(tmp_path: Path) -> None:
    module = make_both(tmp_path, mixing="batch", synthetic_share=0.25)
    for batch in module.train_dataloader():
        assert batch["synthetic"].sum() == 2
        assert len(batch["label"]) == 8
