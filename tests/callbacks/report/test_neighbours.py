import numpy as np
import pytest

from callbacks.report.neighbours import find_neighbours


def test_against_brute_force() -> None:
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(50, 7)).astype(np.float32), random.normal(size=(9, 7)).astype(np.float32)
    found = find_neighbours(generated, real)
    distance = np.linalg.norm(generated[:, None].astype(float) - real[None], axis=2)
    assert found.index.tolist() == distance.argmin(axis=1).tolist()
    assert found.distance == pytest.approx(distance.min(axis=1))
    among = np.linalg.norm(real[:, None].astype(float) - real[None], axis=2)
    np.fill_diagonal(among, np.inf)
    assert found.scale == pytest.approx(among.min(axis=1))
    assert found.ratio == pytest.approx(found.distance / np.median(found.scale))
    assert found.percentile.tolist() == [(found.scale < own).mean() for own in found.distance]


def test_a_copy_stands_out() -> None:
    real = np.arange(10, dtype=np.float32)[:, None] ** 2
    found = find_neighbours(np.array([[49.0], [50.0]], dtype=np.float32), real)
    assert found.distance.tolist() == [0, 1]
    assert found.percentile[0] == 0


def test_among_equal_real_images_the_ratio_is_the_distance() -> None:
    found = find_neighbours(np.ones((1, 2), np.float32), np.zeros((4, 2), np.float32))
    assert found.ratio == pytest.approx(np.sqrt([2]))
