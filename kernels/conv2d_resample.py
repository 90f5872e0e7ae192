"""Convolution with a resampling filter before (up) or after (down) it, as in StyleGAN2's layers.

    y = downsample(convolve(upsample(x, up), weight), down)

Gradients flow to x and the weight, to any order; the filter gets none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smartfast.kernels import composite as reference_conv
from smartfast.kernels.geometry import parse_padding
from smartfast.kernels.selection import dispatch, register
from smartfast.kernels.upfirdn2d.op import downsample_padding, upsample_padding


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    *,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str | None = None,
) -> Tensor:
    """Convolve images and enlarge or shrink them on the way.

    Args:
        x: [N, C, H, W], any floating dtype; under autocast it is cast to the autocast dtype.
        weight: [O, C / groups, kh, kw], cast to the dtype of x.
        f: Filter of `setup_filter`; None = the identity.
        up, down: Integer factors. Enlarging keeps the mean of x.
        padding: Pixels of the upsampled image, in addition to what aligns the filters: one number, (x, y) or
            (x_before, x_after, y_before, y_after). Negative numbers crop.
        groups: Groups of input and output channels that only see each other.
        flip_weight: True = correlation (as torch's conv2d), False = convolution.
        flip_filter: True = correlation with f, False = convolution.
        impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, O, H', W'] in the dtype of x after autocast.

    Raises:
        ValueError: Shapes or arguments that do not fit.
    """
    check_conv(x, weight, up, down, groups)
    x = autocast(x)
    pads = aligned_padding(f, up, down, padding)
    weight = weight.to(x.dtype)
    return dispatch(
        "conv2d_resample", x.device, x, weight, f, up, down, pads, groups, flip_weight, flip_filter, impl=impl
    )


def aligned_padding(f: Tensor | None, up: int, down: int, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """`padding` plus what aligns the filters: (x_before, x_after, y_before, y_after) of the upsampled image."""
    total = parse_padding(padding)
    for extra, factor in ((upsample_padding, up), (downsample_padding, down)):
        if factor > 1:
            x0, x1, y0, y1 = (a + b for a, b in zip(total, extra(f, factor, factor), strict=True))
            total = x0, x1, y0, y1
    return total


def autocast(x: Tensor) -> Tensor:
    """x in the dtype that autocast gives convolutions, as it is without autocast or in float64."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def check_conv(x: Tensor, weight: Tensor, up: int, down: int, groups: int) -> None:
    """Check the shapes of a convolution's arguments.

    Raises:
        ValueError: What does not fit.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected floating point [N, C, H, W]")
    if weight.ndim != 4 or weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected [O, {x.shape[1]} / groups, kh, kw] and O a multiple of "
            f"{groups} groups"
        )
    if min(up, down) < 1:
        raise ValueError(f"up is {up} and down is {down}, expected integers of at least 1")


register("conv2d_resample", "aten", reference_conv.conv2d_resample)
