import colorsys
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.corruptions import CORRUPTIONS, Picture
from datamodules.corruptions.blur import enlarge, streak
from datamodules.corruptions.build import CHUNK, Task, corrupt
from datamodules.corruptions.frost import drawn_plates, frost, read_plates
from datamodules.corruptions.weather import clouds
from datamodules.images import Container, ImageFiles
from lightning_modules.errors import ConfigError
from tests.generators import picture

FIXED = {
    "brightness",
    "contrast",
    "saturate",
    "jpeg",
    "pixelate",
    "gaussian blur",
    "defocus blur",
    "zoom blur",
    "original",
}
PICTURES = [np.asarray(picture(number, (32, 32))) for number in range(4)]


def grey(value: int) -> Picture:
    return np.full((32, 32, 3), value, dtype=np.uint8)


def dot() -> Picture:
    image = grey(0)
    image[16, 16] = 255
    return image


def apply(name: str, image: Picture, severity: int = 5, seed: int = 0) -> NDArray[np.int64]:
    return CORRUPTIONS[name](image, severity, np.random.default_rng(seed)).astype(np.int64)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption(name: str) -> None:
    for image in (*PICTURES, grey(0), grey(255), grey(128)):
        before = image.copy()
        for severity in range(1, 6):
            out = CORRUPTIONS[name](image, severity, np.random.default_rng(1))
            assert out.shape == (32, 32, 3)
            assert out.dtype == np.uint8
            assert np.array_equal(out, CORRUPTIONS[name](image, severity, np.random.default_rng(1)))
        assert np.array_equal(image, before)
    image = PICTURES[0]
    assert np.array_equal(apply(name, image, seed=1), apply(name, image, seed=2)) == (name in FIXED)
    if name != "original":
        change = [np.mean([np.abs(apply(name, image, s) - image).mean() for image in PICTURES]) for s in (1, 5)]
        assert change[0] > 0.1
        # elastic moves the corners less but bends more, and saturation is taken away first and added later
        assert change[1] > change[0] or name in ("elastic", "saturate")


def test_original() -> None:
    assert np.array_equal(apply("original", PICTURES[0]), PICTURES[0])


@pytest.mark.parametrize(("severity", "sd"), [(1, 0.04), (3, 0.08), (5, 0.10)])
def test_gaussian_noise(severity: int, sd: float) -> None:
    values = np.stack([apply("gaussian noise", grey(128), severity, seed) for seed in range(20)]) / 255
    assert values.std() == pytest.approx(sd, rel=0.02)
    # cut to integers: half a level is lost
    assert values.mean() == pytest.approx(127.5 / 255, abs=0.002)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (5, 50)])
def test_shot_noise(severity: int, photons: int) -> None:
    values = np.stack([apply("shot noise", grey(102), severity, seed) for seed in range(20)]) / 255
    assert values.std() == pytest.approx(math.sqrt(0.4 / photons), rel=0.02)
    assert values.mean() == pytest.approx(0.4, abs=0.003)


@pytest.mark.parametrize(("severity", "sd"), [(1, 0.06), (5, 0.2)])
def test_speckle_noise(severity: int, sd: float) -> None:
    dark, light = (
        np.stack([apply("speckle noise", grey(value), severity, seed) for seed in range(20)]) for value in (50, 100)
    )
    assert dark.std() == pytest.approx(50 * sd, rel=0.03)
    assert light.std() == pytest.approx(100 * sd, rel=0.02)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise(severity: int, share: float) -> None:
    values = np.stack([apply("impulse noise", grey(128), severity, seed) for seed in range(40)])
    assert set(np.unique(values)) == {0, 128, 255}
    assert (values == 0).mean() == pytest.approx(share / 2, rel=0.1)
    assert (values == 255).mean() == pytest.approx(share / 2, rel=0.1)


def test_gaussian_blur() -> None:
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    weights /= weights.sum()
    expected = np.zeros((32, 32))
    expected[12:21, 12:21] = np.outer(weights, weights) * 255
    assert np.abs(apply("gaussian blur", dot(), 5)[..., 0] - np.floor(expected)).max() <= 1


def test_defocus_blur() -> None:
    # the pixels within a distance of 1.5 are the 3 x 3 around the centre
    expected = np.zeros((32, 32))
    expected[15:18, 15:18] = 255 // 9
    assert np.array_equal(apply("defocus blur", dot(), 5)[..., 1], expected)
    # radius 0.3 leaves one pixel, so only the softening of 0.4 is seen
    side = math.exp(-1 / (2 * 0.4**2))
    assert apply("defocus blur", dot(), 1)[16, 17, 0] == int(255 * side / (1 + 2 * side) ** 2)


def test_glass_blur_takes_the_neighbours_above_and_to_the_left() -> None:
    # blurs of 0.05 change nothing, so every pixel is one of four
    image = PICTURES[0].astype(np.int64)
    out = apply("glass blur", PICTURES[0], 1)
    near = np.stack([image[2 - up : 32 - up, 2 - left : 32 - left] for up in (0, 1) for left in (0, 1)])
    which = (near == out[2:, 2:]).all(-1)
    assert which.any(0).all()
    assert np.array_equal(out[:2], image[:2])
    assert np.array_equal(out[:, :2], image[:, :2])
    assert (which.mean((1, 2)) > 0.2).all()


def test_streak() -> None:
    pixels = np.zeros((32, 32, 1))
    pixels[16, 16] = 1
    weights = np.exp(-(np.arange(7) ** 2) / (2 * 2**2))
    weights /= weights.sum()
    expected = np.zeros((32, 32, 1))
    expected[16, 10:17, 0] = weights[::-1]
    assert np.allclose(streak(pixels, 3, 2, 0), expected)
    assert np.allclose(streak(pixels, 3, 2, 90), expected.transpose(1, 0, 2))
    # edges are repeated
    assert np.allclose(streak(np.ones((32, 32, 1)), 14, 12, -77), 1)


def test_motion_blur() -> None:
    for seed in range(5):
        row, column, _ = np.nonzero(apply("motion blur", dot(), 5, seed))
        # to the left of the dot, within 45 degrees of the horizontal
        assert column.max() == 16
        assert column.min() < 13
        assert (np.abs(row - 16) <= 16 - column + 1).all()


def test_enlarge() -> None:
    ramp = np.broadcast_to(np.arange(32.0)[:, None], (32, 32, 1)).copy()
    # 26 pixels from the 3rd on are stretched over 32
    expected = 3 + np.arange(32) * 25 / 31
    assert np.allclose(enlarge(ramp.swapaxes(0, 1), 1.25)[:, 5, 0], expected)
    assert np.allclose(enlarge(ramp, 1.25)[5, :, 0], expected)
    assert np.allclose(enlarge(ramp, 1), ramp)


def test_zoom_blur() -> None:
    ramp = np.broadcast_to(np.arange(32)[:, None] * 8, (32, 32))
    out = apply("zoom blur", np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8), 3)[:, 16, 0]
    enlarged = [enlarge(ramp[:, :, None].astype(np.float64), 1 + step / 100)[:, 16, 0] for step in range(16)]
    assert np.abs(out - (ramp[:, 16] + np.sum(enlarged, 0)) / 17).max() <= 1


def test_brightness_and_saturation_are_those_of_hsv() -> None:
    # all kinds of colours: black, greys, pure ones, mixed ones
    colours = np.random.default_rng(0).integers(0, 256, size=(32 * 32, 3))
    colours[:9] = [
        [0] * 3,
        [255] * 3,
        [90] * 3,
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [1, 0, 0],
        [9, 9, 200],
    ]
    image = colours.reshape(32, 32, 3).astype(np.uint8)
    factors = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]
    for severity in range(1, 6):
        brighter, dyed = (apply(name, image, severity).reshape(-1, 3) for name in ("brightness", "saturate"))
        amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
        factor, more = factors[severity - 1]
        for row, colour in enumerate((colours / 255).tolist()):
            hue, saturation, value = colorsys.rgb_to_hsv(*colour)
            expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))) * 255
            assert np.abs(brighter[row] - expected).max() <= 1 + 1e-9
            expected = np.array(colorsys.hsv_to_rgb(hue, min(saturation * factor + more, 1), value)) * 255
            assert np.abs(dyed[row] - expected).max() <= 1 + 1e-9


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.75), (5, 0.15)])
def test_contrast(severity: int, factor: float) -> None:
    image = PICTURES[1].astype(np.float64)
    mean = image.mean((0, 1))
    assert np.abs(apply("contrast", PICTURES[1], severity) - (mean + factor * (image - mean))).max() <= 1


@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (5, 40)])
def test_jpeg(severity: int, quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "JPEG", quality=quality)
    assert np.array_equal(apply("jpeg", PICTURES[0], severity), np.asarray(Image.open(file)))


def test_pixelate() -> None:
    # 0.75 of 32 is 24, so three pixels stand for four: each is the mean of those whose centres it covers
    row = np.tile(np.array([30, 60, 90, 120]), 8)
    out = apply("pixelate", np.repeat(np.tile(row, (32, 1))[:, :, None], 3, axis=2).astype(np.uint8), 4)
    assert out[5, :, 1].tolist() == [30, 75, 75, 120] * 8


def test_elastic() -> None:
    assert np.abs(apply("elastic", grey(128)) - 128).max() <= 1
    # severity 1 is affine: inside, a ramp stays a plane
    y, x = np.mgrid[:32, :32]
    ramp = np.repeat((x * 4 + y * 3)[:, :, None], 3, axis=2).astype(np.uint8)
    out = apply("elastic", ramp, 1, seed=3)[8:24, 8:24, 0]
    design = np.c_[np.ones(256), y[8:24, 8:24].ravel(), x[8:24, 8:24].ravel()]
    plane, *_ = np.linalg.lstsq(design, out.ravel(), rcond=None)
    assert np.abs(design @ plane - out.ravel()).max() <= 1
    assert np.abs(plane[1:] - [3, 4]).max() > 0.05


def test_clouds() -> None:
    rough, smooth = (clouds(32, decay, np.random.default_rng(0)) for decay in (1.2, 3))
    for field in (rough, smooth):
        assert field.min() == 0
        assert field.max() == 1
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_fog() -> None:
    out = apply("fog", grey(255), 5)
    # white and clouds from 0 to 1.5, divided by 2.5
    assert out.min() == 255 / 2.5
    assert out.max() == 255
    assert apply("fog", grey(0)).max() == 0
    assert apply("fog", PICTURES[0]).max() <= PICTURES[0].max()


def test_snow() -> None:
    ground = apply("snow", grey(0), 5)
    # a fifth of the whitening, which makes 0.5 of black, then flakes in two opposite directions
    assert ground.min() >= 255 * 0.2 * 0.5 - 1
    assert ground.max() > 60
    assert np.abs(ground - np.rot90(ground, 2)).max() <= 1
    assert (apply("snow", PICTURES[0], 3) >= PICTURES[0].astype(int) - 1).all()


def test_mud() -> None:
    out = np.stack([apply("spatter", grey(255), 5, seed) for seed in range(20)])
    clean = (out == 255).all(-1)
    assert 0.5 < clean.mean() < 0.99
    # the cover is at least 0.8, and complete in the middle of a large drop
    assert out[~clean].max() <= 0.8 * 63 + 0.2 * 255
    assert np.abs(out[~clean].min(0) - [63, 42, 20]).max() <= 2


def test_water() -> None:
    for severity in (1, 2, 3):
        out = apply("spatter", grey(0), severity)
        assert out.max() == int(238 * 0.5)
        wet = out[out[..., 1] > 50]
        assert np.abs(wet[:, 0] / wet[:, 1] - 175 / 238).max() < 0.03
        assert np.array_equal(out[..., 1], out[..., 2])
        assert (out == 0).all(-1).mean() > 0.2


def test_frost_is_a_weighted_sum() -> None:
    plate = np.full((40, 50, 3), (100, 150, 200), dtype=np.uint8)
    out = frost(PICTURES[0], 5, np.random.default_rng(0), (plate,))
    assert np.array_equal(out, (0.75 * PICTURES[0] + 0.45 * plate[:32, :32]).clip(0, 255).astype(np.uint8))


def test_frost_takes_pieces_of_all_plates() -> None:
    rows = np.arange(64, dtype=np.uint8)
    plates = tuple(np.broadcast_to(rows[:, None, None] + 64 * n, (64, 40, 3)).astype(np.uint8) for n in range(3))
    black = [frost(grey(0), 5, np.random.default_rng(seed), plates)[0, 0, 0] / 0.45 for seed in range(60)]
    assert {int(value + 1) // 64 for value in black} == {0, 1, 2}
    assert len({round(value) for value in black}) > 20


def test_drawn_frost() -> None:
    plates = drawn_plates()
    assert len(plates) == 5
    for plate in plates:
        assert min(plate.shape[:2]) > 32
        # ice is bluish, and its grain is fine but no plain noise
        assert plate[..., 2].mean() > plate[..., 0].mean()
        step = np.abs(np.diff(plate[..., 0].astype(float))).mean() / plate[..., 0].std()
        assert 0.5 < step < 1.05


def test_read_plates(tmp_path: Path) -> None:
    for number in range(6):
        image = np.full((200, 180, 3), 10 * number, dtype=np.uint8)
        image[2, 2] = 255
        Image.fromarray(image).save(tmp_path / f"frost{number}.png")
    (tmp_path / "README.txt").write_text("not a picture")
    plates = read_plates(tmp_path)
    assert [plate.shape for plate in plates] == [(40, 36, 3)] * 5
    assert [plate[1, 1, 0] for plate in plates] == [0, 10, 20, 30, 40]
    assert plates[0][0, 0, 0] == 255


def test_wrong_plates(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"data\.frost_dir: .* holds no picture"):
            read_plates(folder)
    picture(0, (400, 160)).save(tmp_path / "small.png")
    with pytest.raises(ConfigError, match=r"data\.frost_dir: .*small\.png is too small; each side .* 160 pixels"):
        read_plates(tmp_path)
    (tmp_path / "small.png").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"cannot read the image .*small\.png"):
        read_plates(tmp_path)


def task(count: int = 2 * CHUNK + 7, severity: int = 5) -> Task:
    images = np.stack([PICTURES[number % 4] for number in range(count)])
    names = [list(CORRUPTIONS)[number % len(CORRUPTIONS)] for number in range(count)]
    return Task(images, names, severity, np.stack(np.broadcast_arrays(7, np.arange(count)), axis=1))


def test_processes_do_not_change_the_result() -> None:
    tasks = [task(), task(30, severity=2)]
    alone = corrupt(tasks, processes=1)
    assert np.array_equal(alone, corrupt(tasks, processes=2))
    for number in (0, 260, 506):
        name, rng = tasks[0].names[number], np.random.default_rng([7, number])
        assert np.array_equal(alone[number], CORRUPTIONS[name](PICTURES[number % 4], 5, rng))
    rng = np.random.default_rng([7, 1])
    assert np.array_equal(alone[len(tasks[0]) + 1], CORRUPTIONS[tasks[1].names[1]](PICTURES[1], 2, rng))


def test_files(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        Image.fromarray(PICTURES[number]).save(tmp_path / name)
    from_files = Task(ImageFiles(Container(tmp_path), names), task(4).names, 5, task(4).seeds)
    assert np.array_equal(corrupt([from_files]), corrupt([task(4)]))
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    assert not np.array_equal(corrupt([from_files]), corrupt([task(4)]))
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"cannot read the image .*2\.png"):
        corrupt([from_files])


def test_fingerprint(tmp_path: Path) -> None:
    base = task(8)
    plate = np.zeros((40, 40, 3), dtype=np.uint8)
    images = base.images
    assert isinstance(images, np.ndarray)
    other = images.copy()
    other[3, 3, 3, 0] += 1
    variants = [
        base,
        task(8, severity=4),
        Task(images, base.names[::-1], 5, base.seeds),
        Task(images, base.names, 5, base.seeds + 1),
        Task(images, base.names, 5, base.seeds, (plate,)),
        Task(images, base.names, 5, base.seeds, (plate + 1,)),
        Task(other, base.names, 5, base.seeds),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    assert task(8).fingerprint() == base.fingerprint()
