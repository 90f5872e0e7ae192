"""Stride-1 convolution with a 1x1 or 3x3 kernel and zero padding that keeps the size, with its epilogue, in one kernel.

    z[n, o, p] = sum over taps t, channels i of weight[o, i, t] * x[n, i, p + t]
    level = clamp(gain * act(d[n, o] * z + noise[n, p] + bias[o])),      act linear, relu or lrelu
    y = s[n, o] * level,      s = the next layer's styles, or 1

Images are NHWC (others are copied there and back). Saved for the backward: x, weight and level, from which d * z is
recovered wherever the gradient passes; with next_styles the tile writes level beside y, because no y tells level where
a style is 0. The gradient for x is the same kernel with mirrored, transposed weights, the gradient for the weight is
`conv_weight_gradient`, the epilogue's gradients are one kernel. Gradients flow to x, weight, demodulation, noise, bias
and next_styles, to second order. In half precision the gradient for the demodulation is only as good as level's
rounding: where bias and noise are ten times d * z, d * z has lost a digit in level.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..bias_act.op import Activation
from ..epilogue.op import Epilogue, check_epilogue
from ..epilogue.triton import finish_rest, split
from ..runtime import NAMESPACE, is_channels_last
from ..selection import register
from .kernels import launch_conv_gemm, launch_finish_gradient, rounded_clamp, slopes
from .triton import conv_weight_gradient

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PRECISIONS = ("ieee", "tf32")


def conv_gemm(x: Tensor, weight: Tensor, epilogue: Epilogue, precision: str = "ieee") -> Tensor:
    """Correlate images with a weight at stride 1 and equal size, and finish the result.

    Args:
        x: [N, I, H, W], float16, bfloat16 or float32; without a copy if stored as NHWC.
        weight: [O, I, k, k], k 1 or 3, in the dtype of x; copied to [O, k, k, I] unless stored so (channels_last).
        epilogue: Its demodulation is not zero. Linear, relu and lrelu with alpha >= 0 and gain > 0 are part of the
            kernel, the clamp as the dtype of x rounds it; other activations follow it.
        precision: How float32 is multiplied: "ieee", or "tf32" on tensor cores. Others ignore it.

    Returns:
        [N, O, H, W] in the dtype of x, stored as x is (NHWC, else NCHW).

    Raises:
        ValueError: A dtype, shape or number other than above.
    """
    _check(x, weight, precision)
    check_epilogue(epilogue, x.shape[0], weight.shape[0], *x.shape[2:])
    first, rest = split(epilogue)
    _, alpha, gain, _ = first.activation
    if gain <= 0 or alpha < 0:
        raise ValueError(f"gain is {gain} and alpha {alpha}, expected gain > 0 and alpha >= 0: v is recovered from y")
    tensors = (x, weight, *first.tensors)
    keeps_level = first.next_styles is not None and torch.is_grad_enabled()
    keeps_level = keeps_level and any(t is not None and t.requires_grad for t in tensors)
    return finish_rest(conv_gemm_op(*tensors, *first.activation, precision, keeps_level)[0], rest)


def _check(x: Tensor, weight: Tensor, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected ieee or tf32")
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}, expected float16, bfloat16 or float32 (conv_gemm has no float64 form)")
    if weight.dtype != x.dtype:
        raise ValueError(f"weight is {weight.dtype}, expected {x.dtype} as x")
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, I, H, W]")
    _, c_in, height, width = x.shape
    if weight.ndim != 4 or weight.shape[1] != c_in or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected [O, {c_in}, k, k] with k 1 or 3")
    if max(c_in, weight.shape[0]) * height * width >= 2**31:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected fewer than 2^31 numbers in a sample")


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


@torch.library.custom_op(f"{NAMESPACE}::conv_gemm", mutates_args=())
def conv_gemm_op(
    x: Tensor,
    weight: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    precision: str,
    keep_level: bool,
) -> tuple[Tensor, Tensor]:
    """y, and level as the backward pass wants it (NHWC), empty unless asked for."""
    epilogue = Epilogue(demodulation, noise, bias, next_styles, Activation(act, alpha, gain, clamp))
    y, level = launch_conv_gemm(x, weight, epilogue, precision, keep_level)
    return y.contiguous(memory_format=_layout(x)), x.new_empty(0) if level is None else level


@conv_gemm_op.register_fake
def _fake_conv_gemm(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    options: dict[str, Any] = dict(dtype=x.dtype, device=x.device)
    y = torch.empty(shape, memory_format=_layout(x), **options)
    keep_level = rest[-1]
    return y, torch.empty(shape, memory_format=torch.channels_last, **options) if keep_level else x.new_empty(0)


def _save_conv_gemm(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    *tensors, act, alpha, gain, clamp, ctx.precision, keeps_level = inputs
    ctx.activation = Activation(act, alpha, gain, clamp)
    # A bare convolution, such as the gradient for x, needs no y.
    ctx.is_finished = any(t is not None for t in tensors[2:]) or ctx.activation._replace(alpha=0.0) != Activation()
    ctx.save_for_backward(*tensors, output[keeps_level] if ctx.is_finished else None)
    ctx.set_materialize_grads(False)
    if not keeps_level:
        ctx.mark_non_differentiable(output[1])


def _differentiate_conv_gemm(ctx: Any, dy: Tensor | None, d_level: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, demodulation, noise, bias, next_styles, level = ctx.saved_tensors
    d_styles = None
    if d_level is not None:  # only in second derivatives, whose first ones depend on level
        if dy is not None:
            d_styles = (dy.float() * level.float()).sum(dim=[2, 3]).to(next_styles.dtype)
            d_level = d_level + dy * next_styles.to(dy.dtype)[:, :, None, None]
        dy, next_styles = d_level, None
    if dy is None:
        return (None,) * 12
    dz, dx, dw, others = dy, None, None, [None] * 4
    if ctx.is_finished:
        tensors = (demodulation, noise, bias, next_styles)
        dz, *others = finish_gradient_op(dy, level, *tensors, *ctx.activation)
        others = [g if t is not None else None for g, t in zip(others, tensors, strict=True)]
    for_x, for_weight, *_ = ctx.needs_input_grad
    if for_x:
        mirrored = weight.flip([2, 3]).transpose(0, 1)
        dx = conv_gemm_op(dz, mirrored, *[None] * 4, *Activation(), ctx.precision, False)[0]
    if for_weight:
        padding = [weight.shape[2] // 2] * 2
        dw = conv_weight_gradient(dz, x, weight.shape, 1, padding, 1)
    return dx, dw, *others[:3], others[3] if d_styles is None else d_styles, *[None] * 6


@torch.library.custom_op(f"{NAMESPACE}::conv_gemm_finish_gradient", mutates_args=())
def finish_gradient_op(
    dy: Tensor,
    level: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dz (NHWC) and the gradients for demodulation, noise, bias and next_styles in their dtypes; empty for None.

    With v = d * z + noise + bias, K = dlevel/dv and dv = K * s * dy:  dz = d * dv, d_demodulation = sum of dv * z,
    d_noise = sum of dv over channels, d_bias = sum of dv, d_next_styles = sum of dy * level.
    """
    epilogue = Epilogue(demodulation, noise, bias, next_styles, Activation(act, alpha, gain, clamp))
    dz, *gradients = launch_finish_gradient(dy, level, epilogue)
    sums = [
        level.new_empty(0) if t is None or g is None else g.sum_to_size(t.shape).to(t.dtype, copy=True)
        for g, t in zip(gradients, epilogue.tensors, strict=True)
    ]
    return dz, sums[0], sums[1], sums[2], sums[3]


@finish_gradient_op.register_fake
def _fake_finish_gradient(dy: Tensor, level: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    dz = torch.empty_like(level, memory_format=torch.channels_last)
    return dz, *(level.new_empty(0) if t is None else t.new_empty(t.shape) for t in rest[:4])


def _save_finish_gradient(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.activation = Activation(*inputs[6:])


def _differentiate_finish_gradient(ctx: Any, g_dz: Tensor, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    """K is constant almost everywhere; z depends on level, demodulation, noise and bias, from which it is recovered."""
    dy, level, *tensors = ctx.saved_tensors
    dy, out, (demodulation, noise, bias, styles) = (
        dy.float(),
        level.float(),
        (t if t is None else t.float() for t in tensors),
    )
    g_demodulation, g_noise, g_bias, g_styles = (g.float() for g in cotangents)
    act, alpha, gain, clamp = ctx.activation
    slope, inverse_slope = slopes(act, alpha)
    clamp = rounded_clamp(clamp, level.dtype)
    k = torch.where(out > 0, gain, gain * slope)
    if clamp is not None:
        k = torch.where(out.abs() >= clamp, 0.0, k)
    d_level = dy if styles is None else dy * styles[:, :, None, None]
    dv, g_dv = k * d_level, g_dz.float()
    for_level, for_tensors = None, [None] * 4
    if demodulation is not None:
        d, g = demodulation[:, :, None, None], g_demodulation[:, :, None, None]
        dv_dlevel = torch.where(out > 0, 1.0, inverse_slope) / gain
        z = out * dv_dlevel
        if noise is not None:
            z = z - noise
        if bias is not None:
            z = z - bias[:, None, None]
        z = z / d
        g_v = g * dv / d
        for_level, for_tensors[0] = g_v * dv_dlevel, (dv * g_dv - g_v * z).sum(dim=[2, 3])
        if noise is not None:
            for_tensors[1] = -g_v.sum_to_size(noise.shape)
        if bias is not None:
            for_tensors[2] = -g_v.sum(dim=[0, 2, 3])
        g_dv = g_dv * d + g * z
    if noise is not None:
        g_dv = g_dv + g_noise
    if bias is not None:
        g_dv = g_dv + g_bias[:, None, None]
    for_dy = k * g_dv
    if styles is not None:
        for_tensors[3] = (dy * for_dy).sum(dim=[2, 3])
        g_s = g_styles[:, :, None, None]
        for_dy = for_dy * styles[:, :, None, None] + g_s * out
        for_level = g_s * dy if for_level is None else for_level + g_s * dy
    results = (for_dy, for_level, *for_tensors)
    return *(g if g is None else g.to(t.dtype) for g, t in zip(results, ctx.saved_tensors, strict=True)), *[None] * 4


conv_gemm_op.register_autograd(_differentiate_conv_gemm, setup_context=_save_conv_gemm)
finish_gradient_op.register_autograd(_differentiate_finish_gradient, setup_context=_save_finish_gradient)
register("conv_gemm", "triton", conv_gemm)
