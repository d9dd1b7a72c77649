import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import Container, ImageFiles, decode
from lightning_modules.errors import ConfigError
from tests.generators import picture, write_bar_official, write_bar_zip


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def difference(first: Image.Image, second: Image.Image) -> float:
    assert first.mode == second.mode == "RGB"
    assert first.size == second.size
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_rgb_files_keep_their_pixels(form: str) -> None:
    image = picture(1)
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    assert difference(decode(encoded(image, form, **options), "x"), image) < 6


def test_gray_becomes_three_equal_channels() -> None:
    pixels = np.asarray(decode(encoded(picture(1).convert("L"), "PNG"), "x"))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("mode", ["1", "LA", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert decode(encoded(picture(1).convert(mode), "PNG"), "x").mode == "RGB"


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (32, 32), (220, 20, 20))
    decoded = decode(encoded(red.convert("CMYK"), "JPEG", quality=95), "x")
    assert difference(decoded, red) < 6


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 4, 8))
    pixels = np.asarray(decode(encoded(image.convert(mode), "PNG"), "x"))
    assert np.abs(pixels[0, 0].astype(int) - (200, 0, 0)).max() < 10
    assert (pixels[0, 7] > 245).all()


def test_palette_with_one_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=0), "x"))
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(form: str) -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = np.asarray(decode(encoded(Image.fromarray(ramp), form), "x"))[..., 0]
    assert np.abs(pixels.astype(int).ravel() - np.arange(256)).max() <= 1


def test_32_bit_files_with_8_bit_values_are_kept() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), "x"))[..., 0]
    assert (pixels == values).all()


def test_dark_sixteen_bit_pictures_are_scaled_like_the_others() -> None:
    levels = [decode(encoded(Image.new("I;16", (4, 4), value), "TIFF"), "x") for value in (255, 256, 512)]
    assert [np.asarray(level).max() for level in levels] == [0, 1, 2]


def test_a_picture_with_broken_exif_data_is_read() -> None:
    image = picture(1)
    broken = encoded(image, "PNG", exif=b"Exif\x00\x00garbage garbage")
    assert difference(decode(broken, "x"), image) == 0


def test_floats_from_0_to_1_are_scaled_and_others_kept() -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    for floats in (values, values / 255):
        pixels = np.asarray(decode(encoded(Image.fromarray(floats), "TIFF"), "x"))
        assert (pixels == values[..., None]).all()


@pytest.mark.parametrize("value", [-0.5, 256, float("nan")])
def test_floats_of_another_range_are_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0, value]], dtype=np.float32))
    with pytest.raises(ConfigError, match=r"^cannot read the image x \(floats from .*, which are neither 0 to 1 nor"):
        decode(encoded(image, "TIFF"), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # the top left quarter of the upright picture is red, whatever way it is stored
    upright = Image.new("RGB", (32, 16), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(stored, "JPEG", quality=95, exif=exif, subsampling=0), "x")
    assert decoded.size == (32, 16)
    pixels = np.asarray(decoded).astype(int)
    assert pixels[2, 2, 0] > 200
    assert pixels[13, 2, 2] > 200
    assert pixels[2, 29, 2] > 200


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_resized_when_read(form: str) -> None:
    large = picture(3, (400, 300))
    expected = large.resize((32, 32), Image.Resampling.BILINEAR)
    assert difference(decode(encoded(large, form), "x", size=32), expected) < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_named_in_one_line(form: str) -> None:
    data = encoded(picture(1, (200, 200)), form)
    with pytest.raises(
        ConfigError, match=r"^cannot read the image folder/x\.jpg \(.+\); replace the file or delete it$"
    ):
        decode(data[: len(data) // 2], "folder/x.jpg")


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"\xff\xd8\xff" + b"\1" * 50]
)
def test_no_image_at_all(data: bytes) -> None:
    with pytest.raises(ConfigError, match="cannot read the image x"):
        decode(data, "x")


def test_missing_file_is_named(tmp_path: Path) -> None:
    files = ImageFiles(Container(tmp_path), ["gone.jpg"], "make it again")
    with pytest.raises(ConfigError, match=r"gone\.jpg .*; make it again"):
        files.open(0)


def test_folder_and_zip_hold_the_same(tmp_path: Path) -> None:
    archive = Container(write_bar_zip(tmp_path / "bar.zip", train=2, test=1))
    folder = Container(tmp_path / "bar")
    names = folder.names(["train/", "test/"])
    assert archive.names(["test/", "train/"]) == names
    assert len(names) == 18
    assert names == sorted(names)
    for position in range(len(names)):
        images = [ImageFiles(container, names).open(position) for container in (archive, folder)]
        assert difference(*images) == 0


def test_select_keeps_the_order_asked_for(tmp_path: Path) -> None:
    container = Container(write_bar_official(tmp_path))
    files = ImageFiles(container, container.names(["train/"]), "remedy")
    chosen = files.select([4, 1])
    assert list(chosen.names) == [files.names[4], files.names[1]]
    assert chosen.remedy == "remedy"


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in (".hidden.jpg", "notes.txt", "real.JPG"):
        (tmp_path / "train" / name).write_bytes(b"")
    assert Container(tmp_path).names(["train/"]) == ["train/real.JPG"]


def test_other_suffixes_of_jpeg_are_read_and_unread_pictures_counted(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a.JFIF", "b.jpe", "c.heic", "d.HEIC", "e.dng", "notes.txt"):
        (tmp_path / "train" / name).write_bytes(b"")
    container = Container(tmp_path)
    assert container.names(["train/"]) == ["train/a.JFIF", "train/b.jpe"]
    assert container.unread == {".heic": 2, ".dng": 1}


def test_run_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/run/config.yaml", "cat/run/stages/a/2.jpg", "new/run/config.yaml", "dog/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    shutil.copytree(tmp_path / "cat" / "run", tmp_path / "runs" / "sweep" / "seed_0")
    (tmp_path / "runs" / "sweep" / "table.csv").write_bytes(b"")
    shutil.copytree(tmp_path / "cat" / "run", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "config.yaml").write_bytes(b"")  # alone it makes no run of a class
    container = Container(tmp_path)
    assert container.names([""]) == ["cat/1.jpg", "dog/3.jpg"]
    assert container.folders() == ["cat", "dog", "empty"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refuse)
    message = r"^data\.root: cannot list \S+ \(Permission denied\); make it readable"
    with pytest.raises(ConfigError, match=message):
        Container(tmp_path).folders()
    with pytest.raises(ConfigError, match=message):
        Container(tmp_path).names([""])


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / ".own"  # what lies above the container does not count
    for name in ("train/.cache/a.jpg", "train/b/c.jpg", "__MACOSX/train/b/c.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root).as_posix())
    for container in (Container(root), Container(tmp_path / "x.zip")):
        assert container.names([""]) == ["train/b/c.jpg"]
        assert container.folders() == ["train"]
        assert container.folders("train/") == ["b"]
        assert container.folders("test/") == container.names(["test/"]) == []
        assert [container.holds(name) for name in ("train/b/c.jpg", "train/b", "c.jpg")] == [True, False, False]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "train" / "a").mkdir(parents=True)
    (root / "train" / "a" / "1.jpg").write_bytes(b"")
    (root / "train" / "b").symlink_to(root / "train" / "a", target_is_directory=True)
    (root / "train" / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "train" / "gone.jpg").symlink_to(tmp_path / "nothing")
    expected = ["train/a/1.jpg", "train/b/1.jpg", "train/gone.jpg"]
    assert Container(root).names(["train/"]) == Container(root).names([""]) == expected


def test_broken_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match=r"data\.root: .*x\.zip is not a readable zip"):
        Container(path).has("train/")


def test_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/a.jpg", encoded(picture(0), "JPEG"))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.zip:train/a\.jpg"):
        ImageFiles(Container(path), ["train/a.jpg"]).open(0)


@pytest.mark.parametrize("fault", ["bits", "packing", "password"])
def test_a_member_that_cannot_be_unpacked_is_named(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1000))
        packed = archive.getinfo("a.png").compress_size
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    for start, flags in ((0, 6), (central, 8)):
        if fault == "password":
            content[start + flags] |= 1
        elif fault == "packing":  # Deflate64
            content[start + flags + 2] = 9
    if fault == "bits":
        content[central - packed : central] = b"\xff" * packed
    path.write_bytes(bytes(content))
    with pytest.raises(
        ConfigError, match=r"^cannot read the image \S+a\.zip:a\.png \(.+\); replace the file or delete"
    ):
        ImageFiles(Container(path), ["a.png"]).open(0)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xe9t\xe9"
    os.mkdir(folder)
    (Path(os.fsdecode(folder)) / "a.png").write_bytes(encoded(picture(1), "PNG"))
    container, told = Container(tmp_path), r"^data\.root: the name .*\\xe9t\\xe9.* is not UTF-8; rename it"
    with pytest.raises(ConfigError, match=told):
        container.folders()
    with pytest.raises(ConfigError, match=told):
        container.names([""])


def test_an_open_zip_can_be_pickled(tmp_path: Path) -> None:
    files = ImageFiles(Container(write_bar_zip(tmp_path / "bar.zip", train=1, test=1)), ["train/diving_1.jpg"])
    expected = files.open(0)
    assert difference(pickle.loads(pickle.dumps(files)).open(0), expected) == 0


def test_a_forked_child_opens_its_own_handle(tmp_path: Path) -> None:
    container = Container(write_bar_zip(tmp_path / "bar.zip", train=20, test=1))
    names = container.names(["train/"])
    expected = [container.read(name) for name in names]
    child = os.fork()
    # both read at the same time; with a shared file position they would disturb one another
    good = all(container.read(name) == data for _ in range(20) for name, data in zip(names, expected, strict=True))
    if child == 0:
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert good
    assert os.waitstatus_to_exitcode(status) == 0
