import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.datasets import MNIST

from datamodules.biased_split import assign, hold_out
from datamodules.cmnist import CMNIST, MEAN_COLOURS
from datamodules.samples import Samples, Split
from lightning_modules.errors import ConfigError
from tests.chain import ROOT, call
from tests.layouts.mnist import TEST_FILES, TRAIN_FILES, digits, write_mnist
from tests.layouts.release import write_release


def small(root: Path, **options: object) -> CMNIST:
    return CMNIST(root, **{"percent": "5pct", **options})  # type: ignore[arg-type]


def load(root: Path, split: Split, **options: object) -> Samples:
    samples = small(root, **options).load(split)
    assert samples is not None
    return samples


def pixels(samples: Samples) -> NDArray[np.uint8]:
    assert isinstance(samples.images, np.ndarray)
    return samples.images


def numbers(samples: Samples) -> NDArray[np.int64]:
    """Which pictures of the file these are, read from their first row."""
    bits = pixels(samples)[:, 0, :16].max(-1) > 0
    return np.asarray((bits << np.arange(16)).sum(1), dtype=np.int64)


def test_splits(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "MNIST" / "raw")
    train, val, test = (load(root.parent.parent, split) for split in ("train", "val", "test"))
    _, labels = digits(10, 24, 0)
    kept, held_out = hold_out(labels.astype(np.int64), 20, 0)
    assert numbers(train).tolist() == kept.tolist()
    assert numbers(val).tolist() == held_out.tolist()
    assert numbers(test).tolist() == list(range(100))
    assert train.labels.tolist() == labels[kept].tolist()
    assert train.biases.tolist() == assign(train.labels, 10, 0.95, seed=0).tolist()
    assert np.bincount(val.labels).tolist() == [2] * 10
    assert np.bincount(test.labels * 10 + test.biases).tolist() == [1] * 100


def test_colours(tmp_path: Path) -> None:
    grey, _ = digits(10, 24, 0)
    train = load(write_mnist(tmp_path), "train", std_colour=0.0)
    for number, bias, image in zip(numbers(train), train.biases, pixels(train), strict=True):
        assert np.array_equal(image, (grey[number, :, :, None] * MEAN_COLOURS[bias]).astype(np.uint8))


def test_each_image_has_one_colour_around_the_mean(tmp_path: Path) -> None:
    grey, _ = digits(10, 24, 0)
    train = load(write_mnist(tmp_path), "train", std_colour=0.05)
    # pixel (1, 0) is white in every picture, so it shows the colour
    colours = pixels(train)[:, 1, 0] / 255
    expected = grey[numbers(train), :, :, None] * colours[:, None, None]
    assert np.abs(pixels(train) - expected).max() < 2
    away = MEAN_COLOURS[train.biases]
    deviations = (colours - away)[(away > 0.2) & (away < 0.8)] + 0.5 / 255
    assert len(deviations) > 200
    assert abs(deviations.mean()) < 0.01
    assert abs(deviations.std() - 0.05) < 0.008


def test_the_seed_decides(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first, again, other = (load(tmp_path, "test", seed=seed, std_colour=0.05) for seed in (1, 1, 2))
    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))
    assert not np.array_equal(numbers(load(tmp_path, "val", seed=1)), numbers(load(tmp_path, "val", seed=2)))


@pytest.mark.parametrize("folder", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_where_the_files_may_be(tmp_path: Path, folder: str, packed: bool) -> None:
    write_mnist(tmp_path / "reference")
    root = write_mnist(tmp_path / "root" / folder, packed=packed)
    before = sorted(path for path in tmp_path.rglob("*"))
    expected, found = load(tmp_path / "reference", "train"), load(tmp_path / "root", "train")
    assert np.array_equal(pixels(found), pixels(expected))
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert root.exists()


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    reference = MNIST(str(tmp_path), train=False)
    test = load(tmp_path, "test", std_colour=0.0)
    assert test.labels.tolist() == reference.targets.tolist()
    shades = (reference.data.numpy()[..., None] * MEAN_COLOURS[test.biases][:, None, None]).astype(np.uint8)
    assert np.array_equal(pixels(test), shades)


def test_other_ratios(tmp_path: Path) -> None:
    write_mnist(tmp_path, per_group=120)
    train = load(tmp_path, "train", conflict_ratio=0.9)
    assert np.bincount(train.labels * 10 + train.biases).tolist() == [11] * 100
    aligned = load(tmp_path, "train", conflict_ratio=0.0)
    assert np.array_equal(aligned.labels, aligned.biases)
    with pytest.raises(ConfigError, match=r"data\.conflict_ratio=1\.5 must lie between 0 and 1"):
        small(tmp_path, conflict_ratio=1.5)
    with pytest.raises(ConfigError, match=r"data\.conflict_ratio=0\.001 leaves no bias-conflict image among 1100;"):
        load(tmp_path, "train", conflict_ratio=0.001)


def test_batches(tmp_path: Path) -> None:
    data = small(write_mnist(tmp_path))
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (220, 3, 28, 28)
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1
    assert data.has_bias
    assert len(data.bias_names) == data.num_classes == 10
    # not augmented: a batch of training shows the pictures as they are
    train = data.load("train")
    assert train is not None
    shown = pixels(train)[batch["index"].numpy()].transpose(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch["image"], torch.from_numpy(shown).float())


def test_released_files_are_found(tmp_path: Path) -> None:
    write_release(tmp_path / "cmnist", classes=10, per_group=1)
    data = small(tmp_path)
    data.setup()
    assert len(data.train_labels()) == 10 * (4 + 4)
    assert int((data.train_labels() != data.train_biases()).sum()) == 40
    assert [len(data.load(split) or ()) for split in ("val", "test")] == [100, 100]
    assert next(iter(data.test_dataloader()))["image"].shape == (100, 3, 28, 28)


def test_another_ratio_is_built_although_the_released_files_are_there(tmp_path: Path) -> None:
    write_release(tmp_path / "cmnist", classes=10, per_group=1)
    with pytest.raises(ConfigError, match="holds no train-images-idx3-ubyte"):
        load(tmp_path, "train", conflict_ratio=0.1)
    write_mnist(tmp_path / "MNIST" / "raw")
    assert len(load(tmp_path, "train", conflict_ratio=0.1)) == 220


def test_missing_files(tmp_path: Path) -> None:
    (write_mnist(tmp_path) / TEST_FILES[1]).unlink()
    small(tmp_path).setup("fit")
    with pytest.raises(
        ConfigError, match=r"^data\.root: .* holds no t10k-labels-idx1-ubyte\[\.gz\]; set data\.download"
    ):
        small(tmp_path).setup("test")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", ["cut", "text", "empty"])
def test_broken_files(tmp_path: Path, packed: bool, change: str) -> None:
    write_mnist(tmp_path, packed=packed)
    path = tmp_path / (TRAIN_FILES[0] + (".gz" if packed else ""))
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"<html>not found</html>", "empty": b""}[change])
    with pytest.raises(
        ConfigError, match=r"^data\.root: cannot read .*train-images-idx3-ubyte[.gz]* \(.*\); delete it"
    ):
        small(tmp_path).setup("fit")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / TRAIN_FILES[1]).write_bytes((tmp_path / TEST_FILES[1]).read_bytes())
    with pytest.raises(ConfigError, match="are not the images and the labels of MNIST"):
        small(tmp_path).setup("fit")


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.std_colour=2 must lie between 0 and 1"):
        small(tmp_path, std_colour=2)


@contextmanager
def mirror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets torchvision fetch the files from a web server of this process."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        names = [f"{name}.gz" for name in (*TRAIN_FILES, *TEST_FILES)]
        sums = [hashlib.md5((folder / name).read_bytes()).hexdigest() if folder.exists() else None for name in names]
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", list(zip(names, sums, strict=True)))
        yield
        server.shutdown()
        thread.join()


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small(tmp_path / "root", download=True)
    with mirror(write_mnist(tmp_path / "mirror", packed=True), monkeypatch):
        data.prepare_data()
    assert np.array_equal(pixels(load(tmp_path / "root", "test")), pixels(load(tmp_path / "mirror", "test")))
    assert (tmp_path / "root" / "MNIST" / "raw" / TRAIN_FILES[0]).is_file()
    # the server is gone, and nothing more is asked of it
    data.prepare_data()


def test_a_fit_fetches_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"--config={ROOT}/configs/cmnist_vanilla.yaml", f"--data.root={tmp_path / 'root'}"]
    words += ["--data.download=true", "--data.percent=5pct", "--trainer.max_epochs=1", "--report.enabled=false"]
    words += [f"--run_dir={tmp_path / 'run'}", "--trainer.enable_progress_bar=false"]
    with mirror(write_mnist(tmp_path / "mirror", packed=True), monkeypatch):
        assert call("fit", *words).status == 0
    assert (tmp_path / "run" / "results.json").is_file()


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small(tmp_path / "root", download=True)
    with mirror(tmp_path / "nothing", monkeypatch), pytest.raises(ConfigError) as caught:
        data.prepare_data()
    assert str(caught.value).startswith("data.download: cannot fetch MNIST (")
    assert "; put the four files of https://" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [])
    small(tmp_path).prepare_data()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    "DIFFUBIAS_MNIST" not in os.environ, reason="DIFFUBIAS_MNIST does not name a copy of the real MNIST"
)
def test_the_real_digits() -> None:
    root = Path(os.environ["DIFFUBIAS_MNIST"])
    for percent, conflicts in (("0.5pct", 273), ("1pct", 551), ("2pct", 1099), ("5pct", 2749)):
        data = small(root, percent=percent)
        data.setup()
        assert len(data.train_labels()) == 55000
        assert int((data.train_labels() != data.train_biases()).sum()) == conflicts
    test = load(root, "test")
    assert int((test.labels == test.biases).sum()) == 1000
