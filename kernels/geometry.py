"""What all ops share about shapes and dtypes: factors and padding in the order x, then y; layouts; precision."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]
HALF = (torch.float16, torch.bfloat16)


def check_images(x: Tensor, name: str = "x") -> None:
    """Check that `x` holds images.

    Raises:
        ValueError: Not floating point [N, C, H, W].
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}, expected floating point [N, C, H, W]")


def is_integer(value: object) -> bool:
    """Whether it is an integer, or one that a compiler leaves open, and no truth value."""
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def check_integer(value: object, name: str, least: int | None = None) -> None:
    """Check one number.

    Raises:
        ValueError: Not an integer, or less than `least`.
    """
    if not is_integer(value) or (least is not None and value < least):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}, expected an integer{'' if least is None else f' of at least {least}'}")


def parse_pair(value: int | Sequence[int], name: str, least: int = 1) -> Pair:
    """One number for both axes, or one for each, in the order given.

    Raises:
        ValueError: Not one or two integers of at least `least`.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(is_integer(part) and part >= least for part in pair):
        raise ValueError(f"{name} is {value!r}, expected one or two integers of at least {least}")
    return pair


def parse_padding(padding: int | Sequence[int]) -> Quad:
    """One number for all sides, (x, y), or (x_before, x_after, y_before, y_after); negative numbers crop.

    Raises:
        ValueError: Not one, two or four integers.
    """
    sides = tuple(padding) if isinstance(padding, (list, tuple)) else (padding, padding)
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or not all(is_integer(side) for side in sides):
        raise ValueError(f"padding is {padding!r}, expected one, two or four integers")
    return sides


def pad(x: Tensor, pads: Quad) -> Tensor:
    """Add zeros, or crop where negative: also more than x has on that side, and so of the zeros on the other."""
    x0, x1, y0, y1 = pads
    return F.pad(x, (*_within(x0, x1, x.shape[3]), *_within(y0, y1, x.shape[2])))


def _within(before: int, after: int, size: int) -> Pair:
    """The same padding of an axis with no side cropping more than its size, which PyTorch refuses."""
    excess, excess_after = min(before + size, 0), min(after + size, 0)
    return before - excess + excess_after, after - excess_after + excess


def pad_unevenly(x: Tensor, pads: Quad) -> tuple[Tensor, Pair]:
    """Pad x with what a convolution's own padding cannot do: crops and differences between the two sides.

    Returns:
        The padded x and the padding (y, x) that is left to the convolution, which it does without a copy.
    """
    x0, x1, y0, y1 = pads
    pad_x, pad_y = max(min(x0, x1), 0), max(min(y0, y1), 0)
    rest = (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)
    return (pad(x, rest) if any(rest) else x), (pad_y, pad_x)


def filter_size(f: Tensor | None) -> Pair:
    """Width and height of a filter: None is one tap, 1-D is applied along both axes.

    Raises:
        ValueError: Not one or two dimensions with taps.
    """
    if f is not None and (f.ndim not in (1, 2) or f.numel() == 0):
        raise ValueError(f"f has shape {tuple(f.shape)}, expected [k] or [kh, kw]")
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for images [N, C, H, W] that are stored so and not also contiguous, else contiguous."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def wide(x: Tensor) -> Tensor:
    """x in a dtype of at least float32."""
    return x.float() if x.dtype in HALF else x


def per_image(factor: Tensor, images: Tensor) -> Tensor:
    """factor [N] in the dtype of `images`, to be multiplied with them."""
    return factor.to(images.dtype)[:, None, None, None]


def per_channel(factor: Tensor, images: Tensor) -> Tensor:
    """factor [N, C] in the dtype of `images`, to be multiplied with them."""
    return factor.to(images.dtype)[:, :, None, None]
