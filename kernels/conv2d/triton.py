"""Convolution, its input gradient and its weight gradient: three ops whose derivatives are one another.

    y = conv(x, w),   dx = conv_input_gradient(dy, w),   dw = conv_weight_gradient(dy, x)

Each is linear in both of its tensors, and (dy, conv(x, w)) = (conv_input_gradient(dy, w), x) =
(conv_weight_gradient(dy, x), w), so a derivative of any of the three, of any order, is one of them again. PyTorch's
own second derivative of a convolution is a convolution with a kernel as large as the image instead. Each op runs cuDNN
on a GPU and PyTorch's convolution on a CPU, which gets float32 for half precision.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..geometry import HALF, memory_format
from ..runtime import NAMESPACE
from ..selection import register
from .op import Convolution

NO_DILATION, NO_OUTPUT_PADDING = [1, 1], [0, 0]


def conv2d(x: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    """`kernels.conv2d`. The result is stored as NHWC if x or the weight is."""
    stride, pads, groups, transposed = convolution
    if not transposed:
        return conv(x, weight, stride, pads, groups)
    height, width = (
        (size - 1) * stride + kernel - 2 * pad
        for size, kernel, pad in zip(x.shape[2:], weight.shape[2:], pads, strict=True)
    )
    shape = [x.shape[0], weight.shape[1] * groups, height, width]
    return conv_input_gradient(x, weight, shape, stride, pads, groups)


@torch.library.custom_op(f"{NAMESPACE}::conv", mutates_args=())
def conv(x: Tensor, weight: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    """x [N, C, H, W] correlated with weight [O, C / groups, kh, kw]; padding is (y, x)."""
    layout, dtype = _layout(x, weight), x.dtype
    x, weight = _for_device(x), _for_device(weight)
    with torch.autocast(x.device.type, enabled=False):
        y = torch.ops.aten.convolution(
            x, weight, None, [stride] * 2, padding, NO_DILATION, False, NO_OUTPUT_PADDING, groups
        )
    return y.to(dtype).contiguous(memory_format=layout)


@torch.library.custom_op(f"{NAMESPACE}::conv_input_gradient", mutates_args=())
def conv_input_gradient(
    dy: Tensor, weight: Tensor, shape: Sequence[int], stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """Gradient for the x [N, C, H, W] of `conv`, of `shape`: the transposed convolution of dy with the weight."""
    layout, dtype = _layout(dy, weight), dy.dtype
    dy, weight = _for_device(dy), _for_device(weight)
    x = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)  # only its shape and layout count
    return (
        _gradients(dy, x, weight, stride, padding, groups, [True, False])[0].to(dtype).contiguous(memory_format=layout)
    )


@torch.library.custom_op(f"{NAMESPACE}::conv_weight_gradient", mutates_args=())
def conv_weight_gradient(
    dy: Tensor, x: Tensor, shape: Sequence[int], stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """Gradient for the weight [O, C / groups, kh, kw] of `conv`, of `shape`."""
    layout, dtype = _layout(dy, x), dy.dtype
    dy, x = _for_device(dy), _for_device(x)
    weight = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)
    return (
        _gradients(dy, x, weight, stride, padding, groups, [False, True])[1].to(dtype).contiguous(memory_format=layout)
    )


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: Sequence[int], groups: int, wanted: list[bool]
) -> tuple[Tensor, ...]:
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, [stride] * 2, padding, NO_DILATION, False, NO_OUTPUT_PADDING, groups, [*wanted, False]
    )


def _layout(a: Tensor, b: Tensor) -> torch.memory_format:
    """NHWC if either tensor is stored so, as cuDNN and oneDNN choose it; stated because fake tensors must agree."""
    return (
        torch.channels_last if torch.channels_last in (memory_format(a), memory_format(b)) else torch.contiguous_format
    )


def _for_device(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF and x.device.type == "cpu" else x


def _fake_conv(x: Tensor, weight: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    sizes = zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    shape = [x.shape[0], weight.shape[0], *((size + 2 * pad - kernel) // stride + 1 for size, kernel, pad in sizes)]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x, weight))


def _fake_gradient(
    dy: Tensor, other: Tensor, shape: Sequence[int], stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    return torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=_layout(dy, other))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, *options = inputs
    ctx.save_for_backward(a, b)
    ctx.options = options[-3:]  # stride, padding, groups


def _differentiate_conv(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    for_x, for_weight, *_ = ctx.needs_input_grad
    dx = conv_input_gradient(dy, weight, x.shape, *ctx.options) if for_x else None
    dw = conv_weight_gradient(dy, x, weight.shape, *ctx.options) if for_weight else None
    return dx, dw, None, None, None


def _differentiate_input_gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    dy, weight = ctx.saved_tensors
    for_dy, for_weight, *_ = ctx.needs_input_grad
    d_dy = conv(g, weight, *ctx.options) if for_dy else None
    dw = conv_weight_gradient(dy, g, weight.shape, *ctx.options) if for_weight else None
    return d_dy, dw, None, None, None, None


def _differentiate_weight_gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    dy, x = ctx.saved_tensors
    for_dy, for_x, *_ = ctx.needs_input_grad
    d_dy = conv(x, g, *ctx.options) if for_dy else None
    dx = conv_input_gradient(dy, g, x.shape, *ctx.options) if for_x else None
    return d_dy, dx, None, None, None, None


conv.register_fake(_fake_conv)
conv_input_gradient.register_fake(_fake_gradient)
conv_weight_gradient.register_fake(_fake_gradient)
conv.register_autograd(_differentiate_conv, setup_context=_save)
conv_input_gradient.register_autograd(_differentiate_input_gradient, setup_context=_save)
conv_weight_gradient.register_autograd(_differentiate_weight_gradient, setup_context=_save)
register("conv2d", "triton", conv2d)
