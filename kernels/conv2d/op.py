"""Convolution and transposed convolution.

aten takes PyTorch's own, whose second-order weight gradient is a convolution with a kernel as large as the image.
Triton takes a trio closed under differentiation, which avoids that. On a CPU, batch 32, 16 to 64 channels, the trio
takes 15 to 45 % longer in an R1-like second derivative at 4 to 16 pixels and the same time at 32 pixels, and up to 20 %
longer in first-order training, so aten does without it.

Gradients flow to x and the weight, to any order.
"""

from typing import NamedTuple

from torch import Tensor

from ..geometry import Pair, check_images, check_integer, parse_pair
from ..selection import dispatch, public


class Convolution(NamedTuple):
    """What `conv2d` does beside the weight, every number given; padding is (y, x)."""

    stride: int = 1
    padding: Pair = (0, 0)
    groups: int = 1
    transposed: bool = False


@public()
def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int = 1,
    padding: int | Pair = 0,
    groups: int = 1,
    transposed: bool = False,
    impl: str | None = None,
) -> Tensor:
    """Correlate images with a weight, without bias.

    Args:
        x: [N, C, H, W], any floating dtype. A GPU accumulates half precision in float32; a CPU is given float32.
        weight: [O, C / groups, kh, kw] in the dtype of x; transposed: [C, O / groups, kh, kw].
        stride: Step between outputs; transposed: between the places that inputs contribute to.
        padding: Zeros on each side, one number or (y, x); transposed: pixels cut from each side.
        groups: Groups of input and output channels that only see each other.
        transposed: Compute the transposed convolution, the input gradient of the convolution.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, O, H', W'] in the dtype of x.

    Raises:
        ValueError: x or weight of another shape or dtype, or a number out of its range.
    """
    check_images(x)
    check_integer(stride, "stride", 1)
    check_integer(groups, "groups", 1)
    pads = parse_pair(padding, "padding", 0)
    _check_weight(weight, x, groups, transposed)
    return dispatch("conv2d", x.device, x, weight, Convolution(stride, pads, groups, transposed), impl=impl)


def _check_weight(weight: Tensor, x: Tensor, groups: int, transposed: bool) -> None:
    channels = x.shape[1]
    expected = f"[{channels}, O / {groups}, kh, kw]"
    is_right = weight.ndim == 4 and weight.shape[0] == channels and channels % groups == 0
    if not transposed:
        expected = f"[O, {channels // groups}, kh, kw] and O a multiple of {groups}"
        is_right = weight.ndim == 4 and weight.shape[1] * groups == channels and weight.shape[0] % groups == 0
    if not is_right or weight.dtype != x.dtype:
        raise ValueError(f"weight is {weight.dtype} {tuple(weight.shape)}, expected {x.dtype} {expected}")
