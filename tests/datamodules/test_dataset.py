import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.augment import Transform, sample_keys
from datamodules.dataset import ArrayStore, FileStore, ImageDataset, Part
from datamodules.images import Container, ImageFiles
from tests.generators import write_bar_official

PLAIN = Transform((0.5,) * 3, (0.5,) * 3)


def array(count: int, size: int = 12, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def part(count: int, synthetic: bool = False, seed: int = 0) -> Part:
    labels = np.arange(count) % 3
    biases = np.full(count, -1) if synthetic else np.arange(count) % 2
    return Part(ArrayStore(array(count, seed=seed), 12), labels, biases, synthetic)


def files(root: Path) -> ImageFiles:
    container = Container(write_bar_official(root, train=2, test=1))
    return ImageFiles(container, container.names(["train/"]))


def test_batch_contract() -> None:
    dataset = ImageDataset([part(10), part(5, synthetic=True, seed=1)], PLAIN)
    assert len(dataset) == 15
    batch = dataset.__getitems__([12, 0, 9, 10])
    assert batch["image"].shape == (4, 3, 12, 12)
    assert batch["image"].dtype == torch.float32
    assert {key: value.dtype for key, value in batch.items() if key != "image"} == {
        "label": torch.int64,
        "bias": torch.int64,
        "index": torch.int64,
        "synthetic": torch.bool,
    }
    assert batch["index"].tolist() == [2, 0, 9, 0]
    assert batch["synthetic"].tolist() == [True, False, False, True]
    assert batch["label"].tolist() == [2, 0, 0, 0]
    assert batch["bias"].tolist() == [-1, 0, 1, -1]
    expected = np.stack([array(5, seed=1)[2], array(10)[0], array(10)[9], array(5, seed=1)[0]])
    torch.testing.assert_close(batch["image"], PLAIN(expected))


def test_one_sample_is_a_batch_without_its_dimension() -> None:
    dataset = ImageDataset([part(4)], PLAIN)
    sample = dataset[3]
    assert sample["image"].shape == (3, 12, 12)
    assert sample["index"].item() == 3


def test_keys_reach_the_augmentation() -> None:
    transform = Transform((0.5,) * 3, (0.5,) * 3, "crop_flip")
    dataset = ImageDataset([part(6)], transform)
    keys = sample_keys(0, 0, np.arange(6))
    batch = dataset.__getitems__(list(zip(range(6), keys.tolist(), strict=True)))
    torch.testing.assert_close(batch["image"], transform(array(6), keys))
    assert not torch.equal(batch["image"], dataset.__getitems__(list(range(6)))["image"])


def test_arrays_are_resized_but_kept_for_the_captioner() -> None:
    images = array(3, 20)
    store = ArrayStore(images, 8)
    assert store.gather(np.array([2, 0])).shape == (2, 8, 8, 3)
    assert (np.asarray(store.original(1)) == images[1]).all()
    assert len(store) == 3


def test_file_store_reads_the_same_with_and_without_cache(tmp_path: Path) -> None:
    plain, cached = (FileStore(files(tmp_path), 16, cache) for cache in (False, True))
    positions = np.array([3, 0, 11, 3])
    for _ in range(2):
        assert (plain.gather(positions) == cached.gather(positions)).all()
    first = plain.files.open(3)
    assert first.size == plain.original(3).size == (42, 30)
    assert (plain.gather(positions)[0] == np.asarray(first.resize((16, 16), Image.Resampling.BILINEAR))).all()


def test_cached_pictures_are_not_read_again(tmp_path: Path) -> None:
    store = FileStore(files(tmp_path), 16, cache=True)
    before = store.gather(np.arange(12))
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    after = store.gather(np.arange(12))
    assert (before == after).all()
    # what is handed out may be changed without spoiling the cache
    after[:] = 0
    assert (store.gather(np.arange(12)) == before).all()


def test_a_pickled_store_starts_with_an_empty_cache(tmp_path: Path) -> None:
    store = FileStore(files(tmp_path), 16, cache=True)
    expected = store.gather(np.arange(12))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.gather(np.arange(12)) == expected).all()


def test_an_empty_store(tmp_path: Path) -> None:
    assert len(FileStore(ImageFiles(Container(tmp_path), []), 16, cache=True)) == 0


def test_forked_workers_fill_the_cache_of_the_parent(tmp_path: Path) -> None:
    store = FileStore(files(tmp_path), 16, cache=True)
    dataset = ImageDataset([Part(store, np.zeros(12, np.int64), np.zeros(12, np.int64))], PLAIN)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=3, num_workers=2, collate_fn=lambda batch: batch, multiprocessing_context="fork"
    )
    images = torch.cat([batch["image"] for batch in loader])
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    torch.testing.assert_close(dataset.__getitems__(list(range(12)))["image"], images)
