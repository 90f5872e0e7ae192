"""Sheets of sample images: how many in a row, and how they become a PNG."""

import io
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from smartfast.core.files import write_atomically

_SHEET_PIXELS = 1920  # width and height that a sheet of large images may have
_MAX_CLASS_COLUMNS = 20
_GAP_GREY = 90
_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


class GridShape(NamedTuple):
    """Cells of a sheet."""

    rows: int
    columns: int

    @property
    def cells(self) -> int:
        """Number of images on the sheet."""
        return self.rows * self.columns


def grid_shape(resolution: int, num_classes: int) -> GridShape:
    """A sheet that people can read: many small images or few large ones; up to 20 classes get a column each.

    Args:
        resolution: Height and width of one image in pixels.
        num_classes: Classes of the data, 0 = none.
    """
    fitting = max(3, min(16, _SHEET_PIXELS // max(resolution, 64)))
    columns = num_classes if 2 <= num_classes <= _MAX_CLASS_COLUMNS else fitting
    return GridShape(rows=max(3, min(10, fitting)), columns=columns)


def to_pillow(images: Tensor, columns: int = 1, *, min_pixels: int = 0) -> Image.Image:
    """One picture of images uint8 [N, C, H, W], C in 1, 3, 4, filled row by row; missing cells stay black.

    Args:
        columns: Images per row.
        min_pixels: Smaller images are enlarged by the least integer factor (each pixel a square) that gives them this
            width and height, with a grey line between them, since neighbours run into one another at that size.

    Raises:
        ValueError: Not uint8 [N, C, H, W], no image, or another number of channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in _CHANNELS or not len(images):
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, C, H, W] with C in {_CHANNELS}"
        )
    factor = max(1, -(-min_pixels // min(images.shape[2:])))
    gap = {"padding": 1, "pad_value": _GAP_GREY} if factor > 1 else {"padding": 0}
    sheet = images[0] if len(images) == 1 else make_grid(images, nrow=columns, **gap)
    sheet = sheet[: images.shape[1]]  # make_grid repeats a grey channel
    pixels = sheet.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if images.shape[1] == 1 else pixels)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save_grid(images: Tensor, path: str | Path, columns: int, *, min_pixels: int = 64) -> None:
    """Write images as one PNG; arguments and errors as `to_pillow`. A reader never sees half a file."""
    buffer = io.BytesIO()
    to_pillow(images, columns, min_pixels=min_pixels).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
