"""Stride-1 convolution with a 1x1 or 3x3 kernel and zero padding that keeps the size, with its epilogue, in one kernel.

    z[n, o, p] = sum over taps t, channels i of weight[o, i, t] * x[n, i, p + t]
    y = clamp(gain * act(d[n, o] * z + noise[n, p] + bias[o])),      act linear, relu or lrelu

Images are NHWC (others are copied there and back). Saved for the backward: x, weight and y, from which d * z is
recovered wherever the gradient passes. The gradient for x is the same kernel with mirrored, transposed weights, the
gradient for the weight is `conv_weight_gradient`, the epilogue's gradients are one kernel. Gradients flow to x,
weight, demodulation, noise and bias, to second order. In half precision the gradient for the demodulation is only as
good as y's rounding: where bias and noise are ten times d * z, d * z has lost a digit in y.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfast.kernels.triton_ops.conv_gemm_kernels import (
    launch_conv_gemm,
    launch_finish_gradient,
    rounded_clamp,
    slopes,
)
from smartfast.kernels.triton_ops.convolution import conv_weight_gradient
from smartfast.kernels.triton_ops.runtime import NAMESPACE, is_channels_last

__all__ = ["conv_gemm", "launch_conv_gemm", "launch_finish_gradient"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PRECISIONS = ("ieee", "tf32")


def conv_gemm(
    x: Tensor,
    weight: Tensor,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float = 0.0,
    gain: float = 1.0,
    clamp: float | None = None,
    precision: str = "ieee",
) -> Tensor:
    """Correlate images with a weight at stride 1 and equal size, and finish the result.

    Args:
        x: [N, I, H, W], float16, bfloat16 or float32; without a copy if stored as NHWC.
        weight: [O, I, k, k], k 1 or 3, in the dtype of x; copied to [O, k, k, I] unless stored so (channels_last).
        demodulation: [N, O] factors that are not zero, in any floating dtype, or None.
        noise: [N, 1, H, W] or [H, W] or None.
        bias: [O] or None.
        act: linear, relu or lrelu.
        alpha: Slope of lrelu below zero, >= 0.
        gain: Factor after the activation, > 0.
        clamp: Bound on the magnitude after the gain, taken as the dtype of x rounds it; None = none.
        precision: How float32 is multiplied: "ieee", or "tf32" on tensor cores. Others ignore it.

    Returns:
        [N, O, H, W] in the dtype of x, stored as x is (NHWC, else NCHW).

    Raises:
        ValueError: A dtype, shape or number other than above.
    """
    _check(x, weight, demodulation, noise, bias)
    if act not in ("linear", "relu", "lrelu"):
        raise ValueError(f"act is {act!r}, expected linear, relu or lrelu")
    if gain <= 0 or alpha < 0:
        raise ValueError(f"gain is {gain} and alpha {alpha}, expected gain > 0 and alpha >= 0: v is recovered from y")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected ieee or tf32")
    return _conv_gemm(x, weight, demodulation, noise, bias, act, alpha, gain, clamp, precision)


def _check(x: Tensor, weight: Tensor, demodulation: Tensor | None, noise: Tensor | None, bias: Tensor | None) -> None:
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}, expected float16, bfloat16 or float32 (conv_gemm has no float64 form)")
    if weight.dtype != x.dtype:
        raise ValueError(f"weight is {weight.dtype}, expected {x.dtype} as x")
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, I, H, W]")
    n, c_in, *size = x.shape
    if weight.ndim != 4 or weight.shape[1] != c_in or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [O, {c_in}, k, k] with k 1 or 3")
    c_out = weight.shape[0]
    if max(c_in, c_out) * size[0] * size[1] >= 2**31:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected fewer than 2^31 numbers in a sample")
    expected: list[tuple[str, Tensor | None, list[tuple[int, ...]]]] = [
        ("demodulation", demodulation, [(n, c_out)]),
        ("noise", noise, [(n, 1, *size), tuple(size)]),
        ("bias", bias, [(c_out,)]),
    ]
    for name, tensor, shapes in expected:
        if tensor is not None and tuple(tensor.shape) not in shapes:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {' or '.join(map(str, shapes))}")


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


@torch.library.custom_op(f"{NAMESPACE}::conv_gemm", mutates_args=())
def _conv_gemm(
    x: Tensor,
    weight: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    precision: str,
) -> Tensor:
    y = launch_conv_gemm(x, weight, demodulation, noise, bias, act, alpha, gain, clamp, precision)
    return y.contiguous(memory_format=_layout(x))


@_conv_gemm.register_fake
def _fake_conv_gemm(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _save_conv_gemm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, demodulation, noise, bias, *options, ctx.precision = inputs
    ctx.options = options
    act, _, gain, clamp = options
    # A bare convolution, such as the gradient for x, needs no y.
    tensors = (demodulation, noise, bias)
    ctx.is_finished = any(t is not None for t in tensors) or act != "linear" or gain != 1 or clamp is not None
    ctx.save_for_backward(x, weight, *tensors, output if ctx.is_finished else None)


def _differentiate_conv_gemm(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, demodulation, noise, bias, y = ctx.saved_tensors
    dz, dx, dw, others = dy, None, None, []
    if ctx.is_finished:
        dz, *others = _finish_gradient(dy, y, demodulation, noise, bias, *ctx.options)
    others = [g if t is not None else None for g, t in zip(others, (demodulation, noise, bias), strict=False)]
    for_x, for_weight, *_ = ctx.needs_input_grad
    if for_x:
        mirrored = weight.flip([2, 3]).transpose(0, 1)
        dx = _conv_gemm(dz, mirrored, None, None, None, "linear", 0.0, 1.0, None, ctx.precision)
    if for_weight:
        padding = [weight.shape[2] // 2] * 2
        dw = conv_weight_gradient(dz, x, weight.shape, 1, padding, 1)
    return dx, dw, *(others or [None] * 3), None, None, None, None, None


@torch.library.custom_op(f"{NAMESPACE}::conv_gemm_finish_gradient", mutates_args=())
def _finish_gradient(
    dy: Tensor,
    y: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dz (NHWC) and the gradients for demodulation, noise and bias in their dtypes; an empty one for None.

    With v = d * z + noise + bias, K = dy/dv and dv = K * dy:  dz = d * dv, d_demodulation = sum of dv * z,
    d_noise = sum of dv over channels, d_bias = sum of dv.
    """
    dz, *gradients = launch_finish_gradient(dy, y, demodulation, noise, bias, act, alpha, gain, clamp)
    d_demodulation, d_noise, d_bias = (
        y.new_empty(0) if t is None or g is None else g.sum_to_size(t.shape).to(t.dtype, copy=True)
        for g, t in zip(gradients, (demodulation, noise, bias), strict=True)
    )
    return dz, d_demodulation, d_noise, d_bias


@_finish_gradient.register_fake
def _fake_finish_gradient(
    dy: Tensor, y: Tensor, demodulation: Tensor | None, noise: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    dz = torch.empty_like(y, memory_format=torch.channels_last)
    return dz, *(y.new_empty(0) if t is None else t.new_empty(t.shape) for t in (demodulation, noise, bias))


def _save_finish_gradient(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    *tensors, ctx.act, ctx.alpha, ctx.gain, ctx.clamp = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_finish_gradient(
    ctx: Any, g_dz: Tensor, g_demodulation: Tensor, g_noise: Tensor, g_bias: Tensor
) -> tuple[Tensor | None, ...]:
    """K is constant almost everywhere; z depends on y, demodulation, noise and bias as it is recovered from them."""
    dy, y, *tensors = ctx.saved_tensors
    demodulation, noise, bias = (None if t is None else t.float() for t in tensors)
    slope, inverse_slope = slopes(ctx.act, ctx.alpha)
    clamp, out = rounded_clamp(ctx.clamp, y.dtype), y.float()
    k = torch.where(out > 0, ctx.gain, ctx.gain * slope)
    if clamp is not None:
        k = torch.where(out.abs() >= clamp, 0.0, k)
    dv, g_dv = k * dy, g_dz.float()
    for_tensors: list[Tensor | None] = [None, None, None, None]
    if demodulation is not None:
        d, g = demodulation[:, :, None, None], g_demodulation.float()[:, :, None, None]
        dv_dy = torch.where(out > 0, 1.0, inverse_slope) / ctx.gain
        z = out * dv_dy
        if noise is not None:
            z = z - noise
        if bias is not None:
            z = z - bias[:, None, None]
        z = z / d
        g_v = g * dv / d
        for_tensors[:2] = g_v * dv_dy, (dv * g_dv - g_v * z).sum(dim=[2, 3])
        if noise is not None:
            for_tensors[2] = -g_v.sum_to_size(noise.shape)
        if bias is not None:
            for_tensors[3] = -g_v.sum(dim=[0, 2, 3])
        g_dv = g_dv * d + g * z
    if noise is not None:
        g_dv = g_dv + g_noise
    if bias is not None:
        g_dv = g_dv + g_bias[:, None, None]
    for_tensors = [g if g is None else g.to(t.dtype) for g, t in zip(for_tensors, (y, *tensors), strict=True)]
    return (k * g_dv).to(dy.dtype), *for_tensors, None, None, None, None


_conv_gemm.register_autograd(_differentiate_conv_gemm, setup_context=_save_conv_gemm)
_finish_gradient.register_autograd(_differentiate_finish_gradient, setup_context=_save_finish_gradient)
