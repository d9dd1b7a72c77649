from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from datamodules import BAR, DebiasDataModule, Miniature, Samples
from datamodules.images import Container, ImageFiles
from datamodules.samples import Split
from lightning_modules.errors import ConfigError
from tests.datamodules.reading import everything
from tests.datamodules.toy import Pictures
from tests.generators import write_bar_official


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
