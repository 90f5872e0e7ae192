"""Resampling with a FIR filter: insert zeros, pad or crop, filter, keep every n-th sample.

    y[n, c] = (f * pad(zero_insert(x[n, c], up)))[::down] * gain

Linear in x and differentiable to any order; the filter gets no gradient. `upfirdn2d` follows Karras et al.,
"Analyzing and improving the image quality of StyleGAN" (arXiv 1912.04958), section B.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import Pair, Quad, check_images, filter_size, parse_padding, parse_pair
from ..selection import dispatch, public

SEPARABLE_TAPS = 8
"""1-D filters with at least this many taps stay 1-D: two short passes then cost less than one square one."""


class Resampling(NamedTuple):
    """What `upfirdn2d` does beside the taps, every number given; the default keeps the image and scales it by 1."""

    up: Pair = (1, 1)
    down: Pair = (1, 1)
    pads: Quad = (0, 0, 0, 0)
    flip_filter: bool = False
    gain: float = 1.0

    def size(self, f: Tensor | None, height: int, width: int) -> Pair:
        """Height and width of the result."""
        (fw, fh), (x0, x1, y0, y1) = filter_size(f), self.pads
        rows, columns = height * self.up[1] + y0 + y1 - fh, width * self.up[0] + x0 + x1 - fw
        return rows // self.down[1] + 1, columns // self.down[0] + 1

    def adjoint(self, x: Tensor, f: Tensor | None, y: Tensor) -> "Resampling":
        """The resampling that carries gradients of y = upfirdn2d(x, f) back to x: up and down exchange places."""
        (fw, fh), (x0, _, y0, _) = filter_size(f), self.pads
        x1 = x.shape[3] * self.up[0] - y.shape[3] * self.down[0] + x0 - self.up[0] + 1
        y1 = x.shape[2] * self.up[1] - y.shape[2] * self.down[1] + y0 - self.up[1] + 1
        pads = (fw - 1 - x0, x1, fh - 1 - y0, y1)
        return Resampling(self.down, self.up, pads, not self.flip_filter, self.gain)


def setup_filter(
    f: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    *,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Prepare a filter for the functions of this file.

    Args:
        f: Taps [k] or [kh, kw], one number, or None for the identity.
        normalize: Scale the taps to a sum of one.
        flip_filter: Reverse the taps.
        gain: Gain of the two-dimensional filter; not negative for one that stays 1-D.
        separable: Keep a 1-D filter 1-D instead of taking its outer product; None decides by its length.
        device: Device of the result; None = that of `f`.

    Returns:
        float32 [k] or [kh, kw].

    Raises:
        ValueError: `f` has more than two dimensions or no taps, or is 2-D and `separable` is true; its taps sum to 0
            and are to be scaled; a negative gain of a 1-D filter.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device)
    f = f.reshape(1) if f.ndim == 0 else f
    if f.ndim > 2 or f.numel() == 0 or (f.ndim == 2 and separable):
        raise ValueError(f"f has shape {tuple(f.shape)}, expected taps [k]{'' if separable else ' or [kh, kw]'}")
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_TAPS
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if f.ndim == 1 and gain < 0:
        raise ValueError(f"gain is {gain}, expected at least 0 for a 1-D filter, which is applied twice")
    if normalize:
        if not f.is_meta and f.sum() == 0:
            raise ValueError("the taps of f sum to 0, expected another sum or normalize=False")
        f = f / f.sum()
    if flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


@public()
def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Upsample, pad, filter and downsample a batch of images.

    Args:
        x: [N, C, H, W], any floating dtype; half precision is computed in float32.
        f: float32 taps [kh, kw], [k] applied along both axes, or None for the identity.
        up: Factor, or (x, y); factor - 1 zeros follow every sample.
        down: Factor, or (x, y); every factor-th sample is kept.
        padding: Pixels of the upsampled image: one number, (x, y) or (x_before, x_after, y_before, y_after).
            Negative numbers crop.
        flip_filter: False = convolution, True = correlation.
        gain: Factor of the result.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, C, H', W'] in the dtype of x, H' = (H * up + y_before + y_after - kh) // down + 1.

    Raises:
        ValueError: A bad shape or argument, or padding that leaves less than the filter.
    """
    up_xy, down_xy, pads = parse_pair(up, "up"), parse_pair(down, "down"), parse_padding(padding)
    _check(x, f, up_xy, pads)
    return dispatch("upfirdn2d", x.device, x, f, Resampling(up_xy, down_xy, pads, flip_filter, gain), impl=impl)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    *,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Filter without changing the size; `padding` is added to what keeps it. See `upfirdn2d`."""
    fw, fh = filter_size(f)
    pads = _add(padding, fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2)
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Enlarge by `up`, keeping the mean; `padding` is added to what aligns the pixels. See `upfirdn2d`."""
    up_x, up_y = parse_pair(up, "up")
    pads = _add(padding, *upsample_padding(f, up_x, up_y))
    return upfirdn2d(x, f, up=(up_x, up_y), padding=pads, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Shrink by `down`; `padding` is added to what aligns the pixels. See `upfirdn2d`."""
    down_x, down_y = parse_pair(down, "down")
    pads = _add(padding, *downsample_padding(f, down_x, down_y))
    return upfirdn2d(x, f, down=(down_x, down_y), padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample_padding(f: Tensor | None, up_x: int, up_y: int) -> tuple[int, int, int, int]:
    """Padding after zero insertion that centres the filter on the enlarged pixels."""
    fw, fh = filter_size(f)
    return (fw + up_x - 1) // 2, (fw - up_x) // 2, (fh + up_y - 1) // 2, (fh - up_y) // 2


def downsample_padding(f: Tensor | None, down_x: int, down_y: int) -> tuple[int, int, int, int]:
    """Padding before filtering that centres the filter on the pixels that are kept."""
    fw, fh = filter_size(f)
    return (fw - down_x + 1) // 2, (fw - down_x) // 2, (fh - down_y + 1) // 2, (fh - down_y) // 2


def _add(padding: int | Sequence[int], *more: int) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(parse_padding(padding), more, strict=True))


def _check(x: Tensor, f: Tensor | None, up: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    check_images(x)
    if 0 in x.shape[1:]:
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected at least one channel and one pixel")
    fw, fh = filter_size(f)
    width, height = x.shape[3] * up[0] + pads[0] + pads[1], x.shape[2] * up[1] + pads[2] + pads[3]
    if width < fw or height < fh:
        raise ValueError(f"padding {pads} leaves {height}x{width} pixels, expected at least the filter's {fh}x{fw}")
