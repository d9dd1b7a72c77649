"""Reading image files from a folder or a zip: whatever the mode, an upright 8-bit RGB picture comes out."""

import io
import logging
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lightning_modules.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm")
log = logging.getLogger("diffubias")
UNREAD = (".heic", ".heif", ".raw", ".cr2", ".nef", ".dng")  # pictures that Pillow does not decode
REMEDY = "replace the file or delete it"


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns a picture of any mode into an upright 8-bit RGB picture.

    The EXIF orientation is applied if it can be read, transparent parts are laid on white, and 16-bit grey values and
    floats from 0 to 1 are scaled to 8 bit (Pillow's own conversion would clip them).

    Args:
        image: An opened picture of any Pillow mode.

    Returns:
        The picture in mode RGB, values 0 to 255.

    Raises:
        ValueError: Floats lie outside 0 to 255.
    """
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # whatever Pillow makes of broken EXIF data; the picture itself may be sound
        log.debug("EXIF data left out: %s", reason(error))
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.int64)
        # 32-bit files that hold 8-bit values exist, so of them only values beyond 8 bit are scaled
        scaled = grey >> 8 if image.mode != "I" or grey.max(initial=0) > 255 else grey
        return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return _from_floats(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_floats(grey: NDArray[np.float32]) -> Image.Image:
    low, high = grey.min(initial=0), grey.max(initial=0)
    if not (low >= 0 and high <= 255):  # false for NaN too
        raise ValueError(f"floats from {low:g} to {high:g}, which are neither 0 to 1 nor 0 to 255")
    return Image.fromarray(((grey * 255).round() if high <= 1 else grey).astype(np.uint8))


def decode(data: bytes, name: str, size: int | None = None, remedy: str = REMEDY) -> Image.Image:
    """Decodes one image file.

    Args:
        data: The bytes of the file.
        name: How the file is called in an error message.
        size: When given, the picture is resized (antialiased, aspect ratio not kept) to `size` x `size` pixels.
        remedy: What the user can do about a broken file, for the error message.

    Returns:
        The picture in mode RGB.

    Raises:
        ConfigError: The bytes are not an image that can be read to its end.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if size is not None:
                # a JPEG is decoded at 1/2, 1/4 or 1/8 when that still leaves twice the pixels that are needed
                image.draft(None, (2 * size, 2 * size))
            rgb = to_rgb(image)
            rgb.load()
    # decoders raise nearly anything on broken bytes: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise ConfigError(f"cannot read the image {name} ({reason(error)}); {remedy}") from error
    if size is not None and rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return rgb


def one_line(text: str, limit: int = 120) -> str:
    """Returns a text on one line, cut to at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def reason(error: BaseException) -> str:
    """Returns what an error says, on one short line."""
    if isinstance(error, UnidentifiedImageError):  # its text is an address in memory
        return "no image format that is known"
    return one_line(str(error)) or type(error).__name__


def _is_hidden(name: str) -> bool:
    # macOS puts a folder of that name with copies of every file into its zips
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # os.path.isdir answers no where a link leads nowhere or to itself; entry.is_dir raises
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_run(folder: str) -> bool:
    """Tells whether a folder is the run folder of a training, whose pictures are no data."""
    return os.path.isfile(f"{folder}/config.yaml") and os.path.isdir(f"{folder}/stages")


def _only_runs(folder: str) -> bool:
    """Tells whether a folder is there for runs alone; looks no further than the first image outside of them."""
    if _is_run(folder):
        return True
    if any(_ends_like_an_image(name) for name in _walk(folder, "", ())):
        return False
    # a run that has just begun has no stages yet
    return any(Path(folder).rglob("config.yaml"))


def _ends_like_an_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _walk(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[str]:
    """Names of all files below a folder, each with `inside` before it.

    Links are followed, but not back to `above`; run folders are left out.
    """
    here = os.path.realpath(folder)
    if here in above:  # a circle of links would go on for ever
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            if _is_folder(entry):
                if not _is_run(entry.path):
                    yield from _walk(entry.path, f"{inside}{entry.name}/", (*above, here))
            else:
                yield f"{inside}{entry.name}"


@contextmanager
def _listing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data.root: cannot list {error.filename} ({error.strerror}); make it readable or move it away"
        ) from error


def _refuse_unreadable(root: Path, names: Iterable[str]) -> None:
    """Refuses names that are no text, which no result could be written with."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"data.root: the name {os.fsencode(name)!r} in {root} is not UTF-8; rename it (convmv does so)"
            ) from error


class Container:
    """A folder or a zip file of images, safe to use in forked and spawned DataLoader workers.

    Args:
        path: The folder or the zip file.

    Attributes:
        unread: How many pictures `names` met that cannot be read, by suffix.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_zip = path.is_file()
        self.unread: Counter[str] = Counter()
        self._zip: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leaves the open zip handle behind, which cannot be pickled."""
        return {**self.__dict__, "_zip": None}

    def _archive(self) -> zipfile.ZipFile:
        # a handle inherited by fork shares its file position with the parent, so every process opens its own
        if self._zip is None or self._zip[0] != os.getpid():
            try:
                self._zip = (os.getpid(), zipfile.ZipFile(self.path))
            except (OSError, zipfile.BadZipFile) as error:
                raise ConfigError(
                    f"data.root: {self.path} is not a readable zip file ({reason(error)}); "
                    "download it again or give a folder"
                ) from error
        return self._zip[1]

    def names(self, prefixes: Iterable[str]) -> list[str]:
        """Lists the images below some folders.

        Args:
            prefixes: Folders inside the container, such as `train/`.

        Returns:
            Sorted relative names with forward slashes; hidden files and folders and the folders of runs are left out,
            links are followed.

        Raises:
            ConfigError: A folder cannot be listed.
        """
        found: set[str] = set()
        for prefix in prefixes:
            if self.is_zip:
                inside = (name for name in self._archive().namelist() if name.startswith(prefix))
                found.update(name for name in inside if not any(map(_is_hidden, name.split("/"))))
            elif (self.path / prefix).is_dir():
                outer = [self.path, *(self.path / parent for parent in Path(prefix).parents)] if prefix else []
                with _listing():
                    found.update(_walk(str(self.path / prefix), prefix, tuple(map(os.path.realpath, outer))))
        _refuse_unreadable(self.path, found)
        self.unread.update(end for name in found if (end := os.path.splitext(name)[1].lower()) in UNREAD)
        return sorted(filter(_ends_like_an_image, found))

    def folders(self, prefix: str = "") -> list[str]:
        """Lists the folders directly below a folder such as `train/`.

        Returns:
            Sorted names without the prefix; hidden folders and those that are there for runs are left out.

        Raises:
            ConfigError: A folder cannot be listed.
        """
        found: set[str] = set()
        if self.is_zip:
            inside = (name.removeprefix(prefix) for name in self._archive().namelist() if name.startswith(prefix))
            found.update(name.split("/", 1)[0] for name in inside if "/" in name)
        elif (self.path / prefix).is_dir():
            with _listing(), os.scandir(self.path / prefix) as entries:
                visible = (entry for entry in entries if not _is_hidden(entry.name) and _is_folder(entry))
                found.update(entry.name for entry in visible if not _only_runs(entry.path))
        _refuse_unreadable(self.path, found)
        return sorted(name for name in found if not _is_hidden(name))

    def has(self, prefix: str) -> bool:
        """Tells whether a folder such as `train/` exists in the container."""
        if self.is_zip:
            return any(name.startswith(prefix) for name in self._archive().namelist())
        return (self.path / prefix).is_dir()

    def holds(self, name: str) -> bool:
        """Tells whether there is a file of this name."""
        if self.is_zip:
            return name in self._archive().NameToInfo
        return os.path.isfile(os.path.join(self.path, name))

    def where(self, name: str) -> str:
        """Returns how a file is called in a message, with the container's own path."""
        return f"{self.path}:{name}" if self.is_zip else str(self.path / name)

    def read(self, name: str) -> bytes:
        """Reads the bytes of one file.

        Raises:
            OSError: There is no such file, or it cannot be read.
        """
        try:
            return self._archive().read(name) if self.is_zip else (self.path / name).read_bytes()
        # damaged, encrypted, or packed in a way that Python does not know
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise OSError(reason(error)) from error


class ImageFiles:
    """An ordered list of image files in one container.

    Args:
        container: The folder or zip file.
        names: Names inside the container; may be a compact sequence.
        remedy: What the user can do about a broken file, for the error message.
    """

    def __init__(self, container: Container, names: Sequence[str], remedy: str = REMEDY) -> None:
        self.container = container
        self.names = names
        self.remedy = remedy

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.names)

    def open(self, position: int, size: int | None = None) -> Image.Image:
        """Reads one image.

        Args:
            position: Which file, from 0.
            size: When given, the picture is resized to `size` x `size` pixels; otherwise it has its own size.

        Returns:
            The picture in mode RGB, upright.

        Raises:
            ConfigError: The file is missing or broken.
        """
        name = self.names[position]
        shown = self.where(position)
        try:
            data = self.container.read(name)
        except OSError as error:
            raise ConfigError(f"cannot read the image {shown} ({reason(error)}); {self.remedy}") from error
        return decode(data, shown, size, self.remedy)

    def where(self, position: int) -> str:
        """Returns how a file is called in a message."""
        return self.container.where(self.names[position])

    def select(self, positions: Iterable[int]) -> "ImageFiles":
        """Returns the files at the given positions, in that order."""
        return ImageFiles(self.container, [self.names[i] for i in positions], self.remedy)
