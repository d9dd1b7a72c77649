import hashlib
import logging
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10

from datamodules.biased_split import assign, hold_out
from datamodules.corrupted_cifar10 import BATCHES, CLASSES, PAIRINGS, CorruptedCIFAR10, Pairing
from datamodules.corruptions import CORRUPTIONS
from datamodules.corruptions.frost import frost, read_plates
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError
from tests.generators import picture
from tests.layouts.cifar10 import plain, write_cifar10, write_cifar10_batches
from tests.layouts.release import write_release

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def small(root: Path, **options: object) -> CorruptedCIFAR10:
    return CorruptedCIFAR10(root, **{"percent": "5pct", "batch_size": 32, **options})  # type: ignore[arg-type]


def load(root: Path, split: Split, **options: object) -> Samples:
    samples = small(root, **options).load(split)
    assert samples is not None
    return samples


def pixels(samples: Samples) -> NDArray[np.uint8]:
    assert isinstance(samples.images, np.ndarray)
    return samples.images


def trust(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives torchvision the checksums of the small files instead of those of the true ones."""
    listed = [[name, files[name]] for name in sorted(files)]
    monkeypatch.setattr(CIFAR10, "train_list", [entry for entry in listed if entry[0].startswith("data_batch")])
    monkeypatch.setattr(CIFAR10, "test_list", [entry for entry in listed if entry[0] == "test_batch"])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": files["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 20 training and 10 test images a class; nothing is kept there."""
    root = write_cifar10(tmp_path_factory.mktemp("cifar10"))
    (root / "corrupted").write_text("in the way of the cache")
    return root


def test_splits(folders: Path) -> None:
    train, val, test = (load(folders, split) for split in SPLITS)
    labels = np.repeat(np.arange(10), 20)
    kept, held_out = hold_out(labels, 20, 0)
    assert train.labels.tolist() == labels[kept].tolist()
    assert val.labels.tolist() == labels[held_out].tolist() == np.repeat(np.arange(10), 2).tolist()
    assert train.biases.tolist() == assign(train.labels, 10, 0.95, seed=0).tolist()
    assert 0 < (train.labels != train.biases).sum() < 20
    assert np.bincount(test.labels * 10 + test.biases).tolist() == [1] * 100


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_every_picture_has_its_corruption(folders: Path, pairing: Pairing) -> None:
    options = {"pairing": pairing, "severity": 4, "seed": 3, "conflict_ratio": 0.5}
    kept, held_out = hold_out(np.repeat(np.arange(10), 20), 20, 3)
    for split, numbers in (("train", kept), ("val", held_out), ("test", np.arange(100))):
        samples = load(folders, split, **options)  # type: ignore[arg-type]
        part = "test" if split == "test" else "train"
        for number, bias, image in zip(numbers.tolist(), samples.biases.tolist(), pixels(samples), strict=True):
            rng = np.random.default_rng([3, int(split == "test"), number])
            expected = CORRUPTIONS[PAIRINGS[pairing][bias]](plain(part, number), 4, rng)
            assert np.array_equal(image, expected)


def test_pairings() -> None:
    zero, one, release = PAIRINGS["type0"], PAIRINGS["type1"], PAIRINGS["release"]
    assert set(zero) | set(one) == set(CORRUPTIONS)
    assert all(len(set(pairing)) == len(CLASSES) for pairing in (zero, one, release))
    assert [CLASSES[i] for i in range(10) if zero[i] != release[i]] == ["bird", "frog"]
    assert (release[2], release[6]) == ("defocus blur", "glass blur")


def test_the_counts_of_the_real_set() -> None:
    kept, held_out = hold_out(np.repeat(np.arange(10), 5000), 5000, 0)
    assert (len(kept), len(held_out)) == (45_000, 5_000)
    labels = np.repeat(np.arange(10), 4500)
    conflicts = [int((assign(labels, 10, 1 - ratio) != labels).sum()) for ratio in (0.005, 0.01, 0.02, 0.05)]
    assert conflicts == [227, 450, 900, 2250]


def test_batches_of_the_trainer(folders: Path) -> None:
    data = small(folders)
    data.setup()
    assert data.class_names == CLASSES
    assert data.bias_names == PAIRINGS["release"]
    assert data.aligned_bias == tuple(range(10))
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (32, 3, 32, 32)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    raw = batch["image"][0].permute(1, 2, 0) * std + mean
    assert np.abs(raw.numpy() * 255 - pixels(load(folders, "test"))[0]).max() < 0.01
    assert CorruptedCIFAR10(folders).batch_size == 256
    assert len(data.train_labels()) == 180
    assert data.source_image(0).size == (32, 32)


def test_seeds_and_severities_differ(folders: Path) -> None:
    base = load(folders, "test")
    assert not np.array_equal(pixels(base), pixels(load(folders, "test", seed=1)))
    assert not np.array_equal(pixels(base), pixels(load(folders, "test", severity=4)))
    assert np.array_equal(pixels(base), pixels(load(folders, "test", conflict_ratio=0.5)))


def test_python_version(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(write_cifar10_batches(tmp_path), monkeypatch)
    for split in SPLITS:
        ours, theirs = load(tmp_path, split), load(folders, split)
        assert np.array_equal(pixels(ours), pixels(theirs))
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.biases, theirs.biases)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_python_version(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(write_cifar10_batches(tmp_path, per_group=5, test=1), monkeypatch)
    path = tmp_path / BATCHES / "data_batch_3"
    if damage == "changed":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=r"data\.root: .*cifar-10-batches-py is incomplete or damaged; delete it"):
        small(tmp_path).setup()


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(write_cifar10_batches(tmp_path / "web"), monkeypatch)
    archive = tmp_path / "web" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "web" / BATCHES, BATCHES)
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = small(tmp_path / "data", download=True)
    data.prepare_data()
    server.shutdown()
    server.server_close()
    data.setup()
    assert len(data.train_labels()) == 180
    # what is there is not fetched again
    small(tmp_path / "data", download=True).prepare_data()
    with pytest.raises(ConfigError, match=r"data\.download: cannot fetch CIFAR-10 \(.*\); get the Python version from"):
        small(tmp_path / "other", download=True).prepare_data()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConfigError, match=r"data\.root: .* holds neither cifar-10-batches-py/ nor train/ and test/; set"
    ):
        small(tmp_path / name).setup()


def test_missing_class(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, per_group=2, test=1)
    shutil.rmtree(root / "test" / "horse")
    with pytest.raises(ConfigError, match=r"data\.root: .* has no image below test/horse/"):
        small(root).setup()


def test_broken_picture(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, per_group=2, test=1)
    (root / "train" / "deer" / "00009.png").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"cannot read the image .*train/deer/00009\.png .*; replace the file"):
        small(root, conflict_ratio=0.5).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"severity": 0}, "data.severity=0 must be 1 to 5"),
        ({"severity": 6}, "data.severity=6 must be 1 to 5"),
        ({"conflict_ratio": 1.5}, "data.conflict_ratio=1.5 must lie between 0 and 1"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, **options)


def test_ratio_that_the_data_cannot_give(folders: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.conflict_ratio=0\.005 leaves no bias-conflict image among 180"):
        small(folders, percent="0.5pct").setup()


def test_released_files(tmp_path: Path) -> None:
    root = write_release(tmp_path / "cifar10c", classes=10, per_group=1, percents=["0.5pct", "5pct"])
    for inside in (root, tmp_path):
        data = small(inside)
        data.prepare_data()
        data.setup()
        assert data.bias_names == PAIRINGS["release"]
        assert len(data.train_labels()) == 60
        assert int((data.train_labels() != data.train_biases()).sum()) == 20
        assert sum(len(batch["label"]) for batch in data.val_dataloader()) == 100
    assert not list(tmp_path.rglob("*.npz"))
    for options in ({"severity": 4}, {"pairing": "type0"}, {"conflict_ratio": 0.1}):
        with pytest.raises(ConfigError, match="holds neither"):
            small(tmp_path, **options).setup()


def test_photographs_of_frost(folders: Path, tmp_path: Path) -> None:
    for number in range(2):
        picture(number, (300, 200)).save(tmp_path / f"{number}.png")
    test = load(folders, "test", frost_dir=tmp_path)
    number = int(np.flatnonzero(test.biases == 1)[3])
    rng = np.random.default_rng([0, 1, number])
    expected = frost(plain("test", number), 5, rng, read_plates(tmp_path))
    assert np.array_equal(pixels(test)[number], expected)
    others = test.biases != 1
    assert np.array_equal(pixels(test)[others], pixels(load(folders, "test"))[others])


def test_kept_on_the_disk(folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = shutil.copytree(folders, tmp_path / "data")
    (root / "corrupted").unlink()
    expected = {split: pixels(load(folders, split)) for split in SPLITS}
    small(root).prepare_data()
    (kept,) = (root / "corrupted").glob("*.npz")
    assert kept.name.startswith("release-5pct-severity5-seed0-")

    # of equal size and no picture any more: only what is kept can be right
    path = next((root / "train" / "ship").iterdir())
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    for split in SPLITS:
        assert np.array_equal(pixels(load(root, split)), expected[split])
    path.write_bytes(content)

    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    kept.write_bytes(damaged)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "diffubias"):
        assert np.array_equal(pixels(load(root, "train")), expected["train"])
    assert "is damaged" in caplog.text

    # other settings and other pictures make other files
    for options in ({"severity": 3}, {"seed": 1}, {"conflict_ratio": 0.2}, {"pairing": "type1"}):
        small(root, **options).prepare_data()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(path)
    small(root).prepare_data()
    assert len(list((root / "corrupted").glob("*.npz"))) == 6

    elsewhere = tmp_path / "cache"
    small(root, cache_dir=elsewhere).prepare_data()
    assert len(list(elsewhere.glob("*.npz"))) == 1


def test_without_a_place_to_keep_it(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diffubias"):
        small(folders).setup()
    assert "cannot be written" in caplog.text
    assert len(caplog.records) == 1


def test_lightning_prepares_it(folders: Path, tmp_path: Path) -> None:
    class Counter(L.LightningModule):
        seen = 0

        def test_step(self, batch: dict[str, torch.Tensor]) -> None:
            self.seen += len(batch["label"])

    counter = Counter()
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.test(counter, datamodule=small(folders, cache_dir=tmp_path), verbose=False)
    assert counter.seen == 100
    assert len(list(tmp_path.glob("*.npz"))) == 1
