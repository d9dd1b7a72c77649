from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules.augment import PADDING, Augment, Padding, Transform, sample_keys, uniforms

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
MODES: tuple[Augment, ...] = get_args(Augment)


def pictures(count: int, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def keys_of(count: int, seed: int = 0, epoch: int = 0) -> NDArray[np.uint64]:
    return sample_keys(seed, epoch, np.arange(count))


def test_uniforms_are_uniform_and_independent() -> None:
    draws = uniforms(keys_of(20000), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        assert abs(column.mean() - 0.5) < 0.01
        assert np.abs(np.histogram(column, bins=10, range=(0, 1))[0] / 2000 - 1).max() < 0.1
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_keys_depend_on_seed_epoch_and_position() -> None:
    keys = [keys_of(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(np.unique(np.concatenate(keys))) == 9000
    assert (keys_of(1000) == keys[0]).all()
    # a part of the epoch has the keys that it has in the whole
    assert (sample_keys(0, 0, np.arange(500, 600)) == keys[0][500:600]).all()


def test_evaluation_is_normalisation_only() -> None:
    images = pictures(5)
    expected = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    for mode in MODES:
        out = Transform(MEAN, STD, mode)(images)
        assert out.dtype == torch.float32
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_does_not_depend_on_its_batch(mode: Augment) -> None:
    images, keys = pictures(12), keys_of(12)
    transform = Transform(MEAN, STD, mode)
    whole = transform(images, keys)
    alone = torch.cat([transform(images[i : i + 1], keys[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(whole, alone)
    assert whole.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", MODES)
def test_the_pictures_given_are_not_changed(mode: Augment) -> None:
    images = pictures(12)
    before = images.copy()
    Transform(MEAN, STD, mode)(images, keys_of(12))
    assert (images == before).all()


def test_flip_turns_half_of_the_pictures() -> None:
    images = np.broadcast_to(pictures(1), (4000, 16, 16, 3)).copy()
    out = Transform(MEAN, STD, "flip")(images, keys_of(4000))
    plain = Transform(MEAN, STD)(images[:1])
    same = (out == plain).flatten(1).all(1)
    mirrored = (out == plain.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert abs(float(same.float().mean()) - 0.5) < 0.04


@pytest.mark.parametrize("crop_padding", ["black", "mirror"])
def test_crop_shifts_by_every_amount_up_to_the_padding(crop_padding: Padding) -> None:
    image = pictures(1)[0]
    images = np.broadcast_to(image, (4000, 16, 16, 3)).copy()
    out = Transform((0, 0, 0), (1 / 255,) * 3, "crop_flip", crop_padding)(images, keys_of(4000)).round().to(torch.uint8)
    border = ((PADDING, PADDING), (PADDING, PADDING), (0, 0))
    padded = np.pad(image, border) if crop_padding == "black" else np.pad(image, border, mode="reflect")
    side = 2 * PADDING + 1
    known = {}
    for top in range(side):
        for left in range(side):
            crop = padded[top : top + 16, left : left + 16]
            known[crop.tobytes()] = known[crop[:, ::-1].tobytes()] = (top, left)
    seen = [known[np.ascontiguousarray(sample).tobytes()] for sample in out.permute(0, 2, 3, 1).numpy()]
    counts = np.bincount([top * side + left for top, left in seen], minlength=side * side)
    assert counts.min() > 0
    assert counts.max() < 3 * 4000 / side**2


def test_resized_crop_cuts_boxes_of_the_stated_area() -> None:
    # a picture whose red is x and whose green is y shows in its corners which box was cut
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp), np.zeros((64, 64), np.uint8)], axis=-1)
    images = np.broadcast_to(image, (2000, 64, 64, 3)).copy()
    out = Transform((0, 0, 0), (1, 1, 1), "resized_crop_flip")(images, keys_of(2000))
    width = out[:, 0, 32, -1] - out[:, 0, 32, 0]
    height = out[:, 1, -1, 32] - out[:, 1, 0, 32]
    assert abs(float((width > 0).float().mean()) - 0.5) < 0.05
    assert bool((height > 0).all())
    area = width.abs() * height
    assert 0.04 < float(area.min()) < 0.12
    assert 0.9 < float(area.max()) <= 1.0
    assert 0.45 < float(area.mean()) < 0.6
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


def test_boxes_are_as_large_as_asked_for() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp), np.zeros((64, 64), np.uint8)], axis=-1)
    images = np.broadcast_to(image, (500, 64, 64, 3)).copy()
    transform = Transform((0, 0, 0), (1, 1, 1), "resized_crop_flip", crop_scale=(0.7, 0.9))
    out = transform(images, keys_of(500))
    area = (out[:, 0, 32, -1] - out[:, 0, 32, 0]).abs() * (out[:, 1, -1, 32] - out[:, 1, 0, 32])
    assert 0.6 < float(area.min()) < 0.75
    assert 0.8 < float(area.max()) <= 0.91
