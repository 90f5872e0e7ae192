"""Images that are already arrays: the bundled digits and .npz files."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smartfast.core.text import printable
from smartfast.data.sources.base import CHANNELS, ImageInfo, Labels, Mode
from smartfast.errors import UserError

_LARGEST_DIGITS = 256  # all of them are enlarged at once
_MODES: dict[int, Mode] = {channels: mode for mode, channels in CHANNELS.items()}


class ArraySource:
    """Images of one array; see `Source`."""

    def __init__(
        self,
        name: str,
        where: str,
        images: Tensor,
        labels: np.ndarray | None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """`images` is uint8 [N, H, W, C] with 1, 3 or 4 channels; `labels` are [N], or vectors [N, F]."""
        self.name = name
        self.place = self._where = where
        self._images = images.contiguous()
        self._labels = None if labels is None else Labels(labels.tolist(), class_names)

    def __len__(self) -> int:
        return len(self._images)

    def item_name(self, index: int) -> str:
        return f"{self._where}: image {index}"

    def own_name(self, index: int) -> str:
        return f"image {index}"

    def versions(self) -> None:
        """Everything has been read."""

    def inspect(self, index: int) -> ImageInfo:
        height, width, channels = self._images.shape[1:]
        return ImageInfo(width, height, _MODES[channels], f"{zlib.crc32(self._images[index].numpy().tobytes()):08x}")

    def decode(self, index: int) -> Image.Image:
        pixels = self._images[index].numpy()
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    def labels(self) -> Labels | None:
        return self._labels


def digits_source(resolution: int | None) -> ArraySource:
    """The bundled digits at `resolution` (at least 8; None is 8)."""
    # Imported here, because `python -m smartfast.data.sources.digits` warns if this package has imported it before.
    from smartfast.data.sources.digits import NATIVE_RESOLUTION, load_digits

    if resolution is not None and not NATIVE_RESOLUTION <= resolution <= _LARGEST_DIGITS:
        expected = f"{NATIVE_RESOLUTION} to {_LARGEST_DIGITS} for the bundled digits"
        raise UserError(f"data.resolution: {resolution}, expected {expected}")
    images, labels = load_digits(resolution or NATIVE_RESOLUTION)
    return ArraySource("digits", "digits", images.movedim(1, 3), labels.numpy(), "0123456789")


def npz_source(path: Path) -> ArraySource:
    """A .npz with `images` or `arr_0` (uint8 NHWC, NHW or NCHW; NHWC if both fit), perhaps `labels` or `arr_1`."""
    where = printable(str(path))
    try:
        with np.load(path) as file:
            key = next((key for key in ("images", "arr_0") if key in file), None)
            if key is None:
                raise UserError(f"{where}: arrays {printable(', '.join(file.files))}, expected images or arr_0")
            images = file[key]
            labels = next((file[name] for name in ("labels", "arr_1") if name in file), None)
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise nearly anything on corrupt files
        reason = f"is not a readable .npz ({printable(str(error))})"
        raise UserError(f"data.path: {where} {reason}, expected an intact one") from error
    if labels is not None and labels.ndim not in (1, 2):
        found = f"labels of shape {list(labels.shape)}"
        raise UserError(f"{where}: {found}, expected a whole number, or a vector, per image")
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iu":
        labels = labels[:, 0]  # one whole number each is a class, and no vector
    pixels = torch.from_numpy(_as_nhwc(images, f"{where}: {key}"))
    return ArraySource(printable(path.stem), where, pixels, labels)


def _as_nhwc(images: np.ndarray, where: str) -> np.ndarray:
    expected = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with 1, 3 or 4 channels"
    found = f"{where} is {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(f"{found}, expected {expected}")
    if len(images) == 0:
        raise UserError(f"{found}, expected at least one image")
    if images.ndim == 3:
        return images[..., None]
    if images.shape[3] in _MODES:
        return images
    if images.shape[1] in _MODES:
        return np.moveaxis(images, 1, 3)
    raise UserError(f"{found}, expected {expected}")
