"""Encoded images (PNG, JPEG, ...): how one is inspected and decoded.

Every image becomes one of three kinds: grey (`L`), colour (`RGB`) or colour with alpha (`RGBA`).
One-bit images become grey; palettes, CMYK and the like become colour; anything with transparency
(LA, palettes and PNGs with a transparent colour) becomes RGBA. 16-bit colour PNGs keep the upper
8 bits, which is how Pillow reads them; 16-bit and 32-bit grey is refused, because its range is not
known. EXIF rotation is applied where it can be read. Of several frames the first is taken.

To inspect an image is to decode it, which no cheaper look stands in for: a JPEG that ends too soon has a
perfect header. That costs as much as showing each image once, at the first start alone: see `index`.
"""

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from smartfast.data.sources.base import ImageInfo, Mode
from smartfast.errors import UserError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
    | ({".avif"} & Image.registered_extensions().keys())  # Pillow is built with and without
)

# Pixels need no text, but Pillow reads a PNG's, and refuses the image where it finds more than 1 MiB of it.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright."""


class EncodedSource(ABC):
    """The part of a `Source` that is the same wherever the encoded images come from."""

    @abstractmethod
    def item_name(self, index: int) -> str: ...

    @abstractmethod
    def _read(self, index: int) -> bytes:
        """The encoded image. Raises UserError naming the item if it cannot be read."""

    def own_name(self, index: int) -> str:
        return Path(self.item_name(index)).name

    def inspect(self, index: int) -> ImageInfo:
        return inspect_image(self._read(index), self.item_name(index))

    def decode(self, index: int) -> Image.Image:
        return decode_image(self._read(index), self.item_name(index))


def inspect_image(content: bytes, item_name: str) -> ImageInfo:
    """What is known of an encoded image once it has been decoded; checksums are verified where the format has them.

    Raises:
        UserError: It is not an intact image of a mode that can be used; the message starts with `item_name`.
    """
    with _opened(content, item_name) as image:
        several_frames = _has_several_frames(image)
    with _opened(content, item_name) as image:
        image.verify()
    decoded = decode_image(content, item_name)
    mode: Mode = decoded.mode  # type: ignore[assignment]
    return ImageInfo(*decoded.size, mode, f"{len(content)}:{zlib.crc32(content):08x}", several_frames)


def decode_image(content: bytes, item_name: str) -> Image.Image:
    """Decode an encoded image into one of the three modes; raises as `inspect_image`."""
    with _opened(content, item_name) as image:
        mode = _mode_of(image, item_name)
        image.load()
        return _upright(image).convert(mode)


@contextmanager
def _opened(content: bytes, item_name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt files
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose text is the address of the bytes
            reason = "of no format that Pillow knows"
        expected = "expected an intact PNG, JPEG, WebP, BMP, ..."
        raise UserError(f"{item_name}: not a readable image ({reason}), {expected}") from error


def _has_several_frames(image: Image.Image) -> bool:
    """The preview that cameras append to a JPEG (MPO) is no frame, and a later frame that cannot be read is none."""
    with suppress(Exception):
        return image.format != "MPO" and getattr(image, "is_animated", False)
    return False


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. EXIF is often broken where pixels are fine: what cannot be read turns nothing."""
    with suppress(Exception):
        return image.transpose(_TURNED[image.getexif()[ExifTags.Base.Orientation]])
    return image


def _mode_of(image: Image.Image, item_name: str) -> Mode:
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{item_name}: pixels of mode {image.mode}, expected 8 bits per channel")
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"
