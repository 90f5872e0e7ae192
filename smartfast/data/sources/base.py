"""What every source of images offers, and how an encoded image is inspected and decoded.

Every image becomes one of three kinds: grey (`L`), colour (`RGB`) or colour with alpha (`RGBA`).
One-bit images become grey; palettes, CMYK and the like become colour; anything with transparency
(LA, palettes and PNGs with a transparent colour) becomes RGBA. 16-bit colour PNGs keep the upper
8 bits, which is how Pillow reads them; 16-bit and 32-bit grey is refused, because its range is not
known. EXIF rotation is applied. Of several frames the first is taken.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

from PIL import Image, ImageOps

from smartfast.errors import UserError

Mode = Literal["L", "RGB", "RGBA"]
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class ImageInfo(NamedTuple):
    """What is known of an image before it is decoded."""

    width: int
    height: int
    mode: Mode
    stamp: str
    """Changes (almost surely) when the content of the image changes."""


class Version(NamedTuple):
    """Of an image's file: an image whose version is as it was is not opened again."""

    name: str
    """The image's own name in its data set, whatever the place of that."""
    size_bytes: int
    mtime_ns: int


class Source(Protocol):
    """A list of images. Safe to use from several threads, and from worker processes."""

    name: str
    """Short name of the data set, for messages and reports."""
    place: str
    """Absolute path or address of the data set."""

    def __len__(self) -> int: ...

    def item_name(self, index: int) -> str:
        """Where the image is, for messages; the same on every machine up to the folder of the data set."""

    def versions(self) -> list[Version] | None:
        """The version of every image, found without opening one; None if that is not cheaper than to read them."""

    def inspect(self, index: int) -> ImageInfo:
        """Read no more than needed. Raises UserError naming the item if it is not an intact image."""

    def decode(self, index: int) -> Image.Image:
        """The image in one of the three modes. Raises UserError naming the item if it cannot be decoded."""

    def labels(self) -> Sequence[object] | None:
        """One label per image as found, not yet checked; None if the source has none."""


def file_version(name: str, path: str | Path) -> Version:
    """The version of an image in a file of its own; one that never occurs if there is no such file."""
    try:
        state = os.stat(path)
    except OSError:  # whoever opens it says so
        return Version(name, -1, -1)
    return Version(name, state.st_size, state.st_mtime_ns)


def inspect_image(file: BinaryIO | Path, item_name: str) -> tuple[int, int, Mode]:
    """Width, height and mode of an encoded image, without decoding it.

    Checksums are verified where the format has them (PNG), which reads the whole file.

    Raises:
        UserError: It is not an intact image of a mode that can be used; the message starts with `item_name`.
    """
    try:
        with Image.open(file) as image:
            mode = _mode_of(image, item_name)
            width, height = image.size
            image.verify()
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt files
        raise _unreadable(item_name, error) from error
    return width, height, mode


def decode_image(file: BinaryIO | Path, item_name: str) -> Image.Image:
    """Decode an encoded image into one of the three modes; raises as `inspect_image`."""
    try:
        with Image.open(file) as image:
            mode = _mode_of(image, item_name)
            return ImageOps.exif_transpose(image).convert(mode)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt files
        raise _unreadable(item_name, error) from error


def _mode_of(image: Image.Image, item_name: str) -> Mode:
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{item_name}: pixels of mode {image.mode}, expected 8 bits per channel")
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


def _unreadable(item_name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{item_name}: not a readable image ({reason}), expected an intact PNG, JPEG, WebP, BMP, ...")
