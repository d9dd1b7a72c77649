import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn

from datamodules import BAR, Batch, DebiasDataModule, Miniature, Samples
from datamodules.base import Source
from datamodules.images import Container, ImageFiles
from datamodules.samples import Entries, Split
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.datamodules.toy import NAMES, Pictures, Unlabelled
from tests.ddp import run_ddp
from tests.generators import picture, write_bar_official, write_selection, write_synthetic


class Recorder(L.LightningModule):
    """A tiny classifier that writes down which images came in which epoch, and how they were augmented."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.seen: list[tuple[int, list[int], float]] = []

    def training_step(self, batch: Batch, number: int) -> Tensor:
        self.seen.append((self.current_epoch, batch["index"].tolist(), float(batch["image"].double().sum())))
        return nn.functional.cross_entropy(self.net(batch["image"].mean((2, 3))), batch["label"])

    def validation_step(self, batch: Batch, number: int) -> None:
        assert not batch["synthetic"].any()

    def predict_step(self, batch: Batch, number: int) -> Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(root: Path, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "devices": 1, "default_root_dir": root, "num_sanity_val_steps": 0, **options})


def make_both(tmp_path: Path, labels: tuple[int, ...] = (0, 1, 2, 2), **kwargs: Any) -> Pictures:
    module = Pictures(**kwargs)
    module.synthetic_dir = write_synthetic(tmp_path / "synthetic", labels, NAMES, 20)
    module.source = "both"
    return module


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


def test_groups_are_numbered_with_one_more_for_unknown_biases() -> None:
    entries = Entries(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 2, 1, -1, 2]), 3)
    assert entries.groups(3).tolist() == [0, 2, 5, 11, 10]


def shares_drawn(module: Pictures, keys: tuple[str, ...]) -> dict[tuple[int, ...], float]:
    """Share of each combination of the keys' values among the training samples of some epochs."""
    loader: Any = module.train_dataloader()
    drawn: Counter[tuple[int, ...]] = Counter()
    for epoch in range(100):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            drawn.update(zip(*(batch[key].tolist() for key in keys), strict=True))
    return {group: count / drawn.total() for group, count in sorted(drawn.items())}


def test_balanced_classes_come_equally_often(tmp_path: Path) -> None:
    module = make_both(tmp_path, balance="class", augment="none")
    module.repeat_entries(torch.tensor([0]), 50)
    shares = shares_drawn(module, ("label",))
    assert shares == pytest.approx(dict.fromkeys([(0,), (1,), (2,)], 1 / 3), abs=0.03)
    # Within its class every entry is as likely: the one that was repeated fills most of class 0.
    assert np.mean(np.array(everything(module.train_dataloader(), "index").tolist()) == 0) == pytest.approx(
        50 / 68 / 3, abs=0.1
    )
    assert len(everything(module.train_dataloader(), "index")) == 34 + 49 + 4


def test_balanced_groups_come_equally_often(tmp_path: Path) -> None:
    module = make_both(tmp_path, balance="group", augment="none")
    shares = shares_drawn(module, ("label", "bias"))
    # An aligned and a conflicting group and the synthetic images of each class.
    groups = [(label, bias) for label in range(3) for bias in (-1, label, (label + 1) % 3)]
    assert shares == pytest.approx(dict.fromkeys(groups, 1 / 9), abs=0.03)
    for source, count in (("real", 34), ("synthetic", 4)):
        module.source = source  # type: ignore[assignment]
        assert len(everything(module.train_dataloader(), "index")) == count


def test_synthetic_images_of_a_group_are_a_group_apart(tmp_path: Path) -> None:
    module = Pictures(balance="group", augment="none")
    pairs = [(label, bias) for label in range(3) for bias in range(3)]
    labels, biases = zip(*pairs, strict=True)
    module.synthetic_dir = write_synthetic(tmp_path / "synthetic", labels, NAMES, 20, biases=biases)
    module.source = "both"
    shares = shares_drawn(module, ("label", "bias", "synthetic"))
    real = [(label, bias, 0) for label in range(3) for bias in (label, (label + 1) % 3)]
    groups = [*real, *((*pair, 1) for pair in pairs)]
    assert shares == pytest.approx(dict.fromkeys(groups, 1 / 15), abs=0.03)


def test_groups_without_bias_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.balance=group needs bias labels and Unlabelled has none; set"):
        Unlabelled(balance="group").train_dataloader()
    assert len(everything(Unlabelled(balance="class").train_dataloader(), "index")) == 34


def test_the_order_has_a_seed_of_its_own() -> None:
    streams = []
    for seed, order_seed in ((5, None), (5, 5), (5, 6), (6, 6)):
        module = Pictures(seed=seed)
        module.order_seed = order_seed
        loader = module.train_dataloader()
        data = torch.cat([batch["image"] for batch in module.mining_dataloader(0, 1)])
        images = torch.cat([batch["image"] for batch in loader])
        streams.append((data, everything(loader, "index").tolist(), images))
    same, default, other, both = streams
    assert torch.equal(same[2], default[2])
    # Another order and augmentation of the same data.
    assert torch.equal(default[0], other[0])
    assert default[1] != other[1]
    assert sorted(default[1]) == sorted(other[1])
    # The same order of other data.
    assert other[1] == both[1]
    assert not torch.equal(other[0], both[0])


def test_fixed_share_a_batch(tmp_path: Path) -> None:
    module = make_both(tmp_path, mixing="batch", synthetic_share=0.25)
    for batch in module.train_dataloader():
        assert batch["synthetic"].sum() == 2
        assert len(batch["label"]) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"num_workers": -1}, r"data\.num_workers=-1"),
        ({"image_size": 2}, r"data\.image_size=2"),
        ({"seed": -1}, r"data\.seed=-1"),
        ({"mined_repeat": -1}, r"data\.mined_repeat=-1"),
        ({"val_fraction": 0.0}, r"data\.val_fraction"),
        ({"val_fraction": 1.0}, r"data\.val_fraction"),
        ({"std": (1, 0, 1)}, r"data\.std"),
        ({"synthetic_share": 0.5}, r"data\.synthetic_share has no effect"),
        ({"mixing": "weighted", "synthetic_share": 1.0}, r"data\.synthetic_share=1\.0"),
        ({"mixing": "batch", "synthetic_share": 0.01}, r"data\.synthetic_share=0\.01"),
        (
            {"mixing": "weighted", "balance": "class"},
            r"data\.balance=class draws the images itself; leave data\.mixing",
        ),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pictures(**options)


class Files(Pictures):
    """The same labels, but pictures in files."""

    def __init__(self, root: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load(self, split: Split) -> Samples | None:
        samples = super().load(split)
        if samples is None:
            return None
        names = Container(self.root).names(["train/"])[: len(samples)]
        return Samples(ImageFiles(Container(self.root), names), samples.labels, samples.biases)


@pytest.mark.parametrize("cache", [False, True])
def test_workers_give_the_same_stream(tmp_path: Path, cache: bool) -> None:
    write_bar_official(tmp_path, train=7, test=1)
    streams = []
    for workers in (0, 2):
        module = Files(tmp_path, num_workers=workers, cache=cache)
        loader = module.train_dataloader()
        stream = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            stream += [(batch["index"], batch["image"]) for batch in loader]
        streams.append(stream)
    for (index, image), (other_index, other_image) in zip(*streams, strict=True):
        assert torch.equal(index, other_index)
        assert torch.equal(image, other_image)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_reports_a_broken_file_in_one_line(tmp_path: Path, workers: int) -> None:
    write_bar_official(tmp_path, train=7, test=1)
    (tmp_path / "train" / "climbing_3.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ConfigError, match=r"^cannot read the image .*climbing_3\.jpg .*delete it$") as caught:
        list(Files(tmp_path, num_workers=workers).mining_dataloader(0, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("validate", [True, False])
def test_a_resumed_fit_goes_on_with_the_same_stream(tmp_path: Path, validate: bool) -> None:
    limit = {} if validate else {"limit_val_batches": 0}

    def run(epochs: int, checkpoint: str | None, folder: str) -> tuple[Recorder, str]:
        L.seed_everything(epochs, verbose=False)
        keeper = ModelCheckpoint(tmp_path / folder, save_last=True, monitor=None)
        module = Recorder()
        fit = trainer(tmp_path, max_epochs=epochs, callbacks=[keeper], **limit)
        fit.fit(module, datamodule=Pictures(seed=5), ckpt_path=checkpoint)
        return module, keeper.last_model_path

    whole, _ = run(4, None, "whole")
    start, checkpoint = run(2, None, "start")
    rest, _ = run(4, checkpoint, "rest")
    assert [epoch for epoch, _, _ in rest.seen] == sorted([2, 3] * 5)
    assert whole.seen == start.seen + rest.seen
    assert len({total for _, _, total in whole.seen}) == len(whole.seen)


def test_trainer_predicts_every_test_image(tmp_path: Path) -> None:
    outputs = trainer(tmp_path).predict(Recorder(), datamodule=Pictures())
    assert outputs is not None
    assert torch.cat([torch.as_tensor(part) for part in outputs]).tolist() == list(range(12))


def test_trainer_overfits_the_same_batches(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=2).fit(module, datamodule=Pictures())
    assert [index for _, index, _ in module.seen[:2]] == [index for _, index, _ in module.seen[2:]]


def fit_on_two_ranks(rank: int, world_size: int, root: Path) -> list[tuple[int, list[int], float]]:
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "GROUP_RANK": "0"})
    module = Recorder()
    data = Pictures(batch_size=4, mined_repeat=1)
    data.source, data.synthetic_dir = "both", root
    trainer(root, max_epochs=2, devices=world_size, strategy="ddp").fit(module, datamodule=data)
    return module.seen


def test_a_trainer_with_two_ranks_shares_the_stream_of_one(tmp_path: Path) -> None:
    write_synthetic(tmp_path, [0, 1, 2], NAMES)
    write_selection(tmp_path, [1, 2, 3])
    data = Pictures(batch_size=8, mined_repeat=1)
    data.source, data.synthetic_dir = "both", tmp_path
    alone = Recorder()
    trainer(tmp_path, max_epochs=2).fit(alone, datamodule=data)
    ranks = run_ddp(fit_on_two_ranks, tmp_path)
    assert len(alone.seen) == len(ranks[0]) == len(ranks[1])
    for (epoch, index, total), first, second in zip(alone.seen, *ranks, strict=True):
        assert epoch == first[0] == second[0]
        pair = [value for both in zip(first[1], second[1], strict=True) for value in both]
        assert pair == index
        assert abs(first[2] + second[2] - total) < 1e-6


@pytest.fixture
def parser() -> Iterator[LightningArgumentParser]:
    made = LightningArgumentParser()
    made.add_lightning_class_args(DebiasDataModule, "data", subclass_mode=True)
    return iter([made])


def test_the_command_line_reaches_inherited_arguments(
    parser: Iterator[LightningArgumentParser], tmp_path: Path
) -> None:
    arguments = ["--data=datamodules.Miniature", "--data.train_size=40", "--data.mixing=batch", "--data.seed=7"]
    made = next(parser)
    data = made.instantiate(made.parse_args([*arguments, "--data.mean=[0.1,0.2,0.3]"])).data
    assert isinstance(data, Miniature)
    assert (data.sizes["train"], data.mixing, data.seed) == (40, "batch", 7)
    arguments = ["--data=datamodules.BAR", f"--data.root={tmp_path}", "--data.val_fraction=0.2", "--data.percent=5pct"]
    data = made.instantiate(made.parse_args(arguments)).data
    assert isinstance(data, BAR)
    assert (data.root, data.val_fraction, data.percent) == (tmp_path, 0.2, "5pct")
    for wrong in ("--data.mixing=sum", "--data.augment=blur", "--data.none=1"):
        with pytest.raises(SystemExit):
            made.parse_args(["--data=datamodules.Miniature", wrong])
