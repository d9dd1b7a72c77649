import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks.report.features import describe, project
from callbacks.report.settings import Projection
from datamodules import Miniature
from lightning_modules import Vanilla

CPU = torch.device("cpu")


def two_clusters(count: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    random = np.random.default_rng(0)
    points = random.normal(size=(count, 6)).astype(np.float32)
    points[: count // 2, 0] += 40
    return points


def test_features_of_chosen_images_in_the_order_of_the_rows() -> None:
    data = Miniature(train_size=160, test_size=101, val_size=32, batch_size=4)
    module = Vanilla(backbone="smallresnet", num_classes=8)
    module.configure_model()
    module.eval()
    rows = [7, 3, 100, 3, 50]
    found = describe(module, data.chosen_dataloader("test", rows), CPU)
    every = next(iter(data.chosen_dataloader("test", range(101))))  # a batch of the first four
    with torch.inference_mode():
        expected = module.features(next(iter(data.chosen_dataloader("test", [3])))["image"])
    assert found.features[1] == pytest.approx(expected[0].numpy(), abs=1e-5)
    assert found.features[1] == pytest.approx(found.features[3], abs=1e-5)
    labels, biases = data.split_labels("test")
    assert found.label.tolist() == labels[rows].tolist()
    assert found.bias.tolist() == biases[rows].tolist()
    assert every["index"].tolist() == [0, 1, 2, 3]
    pixels = describe(None, data.chosen_dataloader("test", rows), CPU)
    image = next(iter(data.chosen_dataloader("test", [100])))["image"][0].numpy()
    side = image.shape[1] // 16
    assert pixels.features[2] == pytest.approx(image.reshape(3, 16, side, 16, side).mean(axis=(2, 4)).ravel(), abs=1e-5)


def test_pca_is_that_of_the_standardised_features() -> None:
    points = two_clusters()
    scaled = (points - points.mean(axis=0)) / points.std(axis=0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    found = project(points, "pca")
    assert np.abs(found) == pytest.approx(np.abs(left[:, :2] * values[:2]), abs=1e-4)


@pytest.mark.parametrize("how", ["tsne", "pca"])
def test_clusters_stay_apart_and_the_picture_the_same(how: Projection) -> None:
    points = two_clusters()
    found = project(points, how)
    assert_apart(found)
    assert np.array_equal(found, project(points, how))


def test_umap_keeps_clusters_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # compiling takes a minute, 16 points some seconds
    pytest.importorskip("umap")
    assert_apart(project(two_clusters(16), "umap"))


def test_umap_leaves_the_threads_of_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()

    class Greedy:
        """Does to the threads what numba does when it is first used."""

        def __init__(self, **settings: object) -> None:
            assert settings["random_state"] == 0

        def fit_transform(self, points: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
            torch.set_num_threads(threads + 1)
            return points[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Greedy))
    assert project(two_clusters(), "umap").shape == (40, 2)
    assert torch.get_num_threads() == threads


def assert_apart(found: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    assert found.ndim == 2
    first, second = np.split(found, 2)
    distance = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert distance > max(first.std(axis=0).max(), second.std(axis=0).max())
