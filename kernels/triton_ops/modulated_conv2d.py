"""Convolution with resampling and StyleGAN2's modulated convolution, made of the other Triton ops.

Scaling a sample's weights is scaling its inputs before and its outputs after, so one convolution serves all samples:

    y[n, o] = s[n, o] * clamp(gain * act(d[n, o] * resample(conv(x[n] * styles[n], weight)[o]) + noise + bias[o]))

with s = next_styles or 1. The factors d are one small matrix product. Two routes compute the rest: "library" is
PyTorch's convolution and one kernel for everything behind it, "gemm" does all of it in one kernel; `route_of` chooses.
Gradients of every order flow to x, weight, styles, noise, bias and next_styles: every piece is differentiable.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.kernels.bias_act.triton import bias_act
from smartfast.kernels.composite import NO_PADS, demodulation, limit_styles, limit_weight
from smartfast.kernels.conv2d.gemm import conv_gemm
from smartfast.kernels.conv2d.triton import conv2d
from smartfast.kernels.epilogue.triton import ACTIVATIONS, finish
from smartfast.kernels.geometry import Pair, Quad
from smartfast.kernels.routes import Route, measured_route
from smartfast.kernels.score_noise.aten import pad_unevenly, wide
from smartfast.kernels.selection import register
from smartfast.kernels.upfirdn2d.triton import upfirdn2d, upfirdn2d_finish


class Resampling(NamedTuple):
    """The arguments of a last `upfirdn2d`."""

    up: Pair
    down: Pair
    pads: Quad
    gain: float


class Epilogue(NamedTuple):
    """What follows the convolution, in the order in which `finish` takes it."""

    demodulation: Tensor | None
    noise: Tensor | None
    bias: Tensor | None
    next_styles: Tensor | None
    act: str
    alpha: float
    gain: float
    clamp: float | None


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """`kernels.conv2d_resample`; arguments as `reference_conv.conv2d_resample`."""
    z, last = _convolve(x, weight, f, up, down, pads, groups, flip_weight, flip_filter)
    return z if last is None else upfirdn2d(z, f, last.up, last.down, last.pads, flip_filter, last.gain)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    f: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    flip_filter: bool,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    input_is_scaled: bool,
    next_styles: Tensor | None,
) -> Tensor:
    """`kernels.modulated_conv2d`; arguments as `reference_conv.modulated_conv2d`."""
    dtype = x.dtype
    route = route_of(x, weight, up, down, pads, act, alpha, gain)
    weight, styles = wide(weight), wide(styles)
    if demodulate and dtype == torch.float16:
        weight, styles = limit_weight(weight), styles if input_is_scaled else limit_styles(styles)
    factors = demodulation(weight, styles) if demodulate else None
    if not input_is_scaled:
        x = _scale(x, styles)

    def convolve(epilogue: Epilogue) -> Tensor:
        if route.name == "gemm":
            return _by_gemm(x, weight.to(dtype), flip_weight, epilogue)
        return _by_library(x, weight.to(dtype), f, up, down, pads, flip_weight, flip_filter, epilogue)

    if act in ACTIVATIONS:
        return convolve(Epilogue(factors, noise, bias, next_styles, act, alpha, gain, clamp))
    y = convolve(Epilogue(factors, noise, None, None, "linear", 0.0, 1.0, None))
    y = bias_act(y, bias, 1, act, alpha, gain, clamp)
    return y if next_styles is None else _scale(y, next_styles)


def route_of(x: Tensor, weight: Tensor, up: int, down: int, pads: Quad, act: str, alpha: float, gain: float) -> Route:
    """The route of a call and why; reads only shapes, dtype and device. Arguments as `modulated_conv2d`."""
    obstacle = _gemm_obstacle(x, weight, up, down, pads, act, alpha, gain)
    if obstacle is not None:
        return Route("library", f"gemm does not do {obstacle}")
    return measured_route(x.device, x.dtype, weight.shape[2], weight.shape[1], weight.shape[0], x.shape[2])


def _gemm_obstacle(
    x: Tensor, weight: Tensor, up: int, down: int, pads: Quad, act: str, alpha: float, gain: float
) -> str | None:
    """What of a call the gemm route cannot compute, None if nothing."""
    kh, kw = weight.shape[2:]
    if up > 1 or down > 1:
        return "resampling"
    if (kh, kw) not in ((1, 1), (3, 3)):
        return f"a kernel of {kh}x{kw}"
    if pads != (kh // 2,) * 4:
        return "padding that changes the size"
    if x.dtype == torch.float64:
        return "float64"
    if act in ACTIVATIONS and (gain <= 0 or alpha < 0):
        return f"a gain of {gain:g} with an alpha of {alpha:g}"
    return None


def _by_gemm(x: Tensor, weight: Tensor, flip_weight: bool, epilogue: Epilogue) -> Tensor:
    if not flip_weight:
        weight = weight.flip([2, 3])
    precision = "tf32" if x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"
    return conv_gemm(x, weight, *epilogue, precision)


def _by_library(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    flip_weight: bool,
    flip_filter: bool,
    epilogue: Epilogue,
) -> Tensor:
    z, last = _convolve(x, weight, f, up, down, pads, 1, flip_weight, flip_filter)
    if last is None:
        return finish(z, *epilogue)
    return upfirdn2d_finish(z, f, last.up, last.down, last.pads, flip_filter, last.gain, *epilogue)


def _scale(x: Tensor, styles: Tensor) -> Tensor:
    """x [N, C, H, W] * styles [N, C], with both gradients from one pass."""
    return finish(x, styles, None, None, None, "linear", 0.0, 1.0, None)


def _convolve(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Quad,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> tuple[Tensor, Resampling | None]:
    """`conv2d_resample` up to its last step, and that step if it is a filter, for the caller to do with its epilogue.

    The order of convolution and filter is that of `reference_conv.conv2d_resample`.
    """
    x0, x1, y0, y1 = pads
    kh, kw = weight.shape[2:]
    is_pointwise = kh == kw == 1
    is_transposed = up > 1 and down == 1 and not is_pointwise
    if flip_weight == is_transposed and not is_pointwise:  # a transposed convolution flips by itself
        weight = weight.flip([2, 3])
    if is_transposed:
        swapped = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # [C, O / groups, kh, kw]
        x = conv2d(x, swapped, stride=up, groups=groups, transposed=True)
        pads = (x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up)
        return x, Resampling((1, 1), (1, 1), pads, up**2)
    if up > 1 and down > 1:
        x = upfirdn2d(x, f, (up, up), (1, 1), pads, flip_filter, up**2)
        return conv2d(x, weight, groups=groups), Resampling((1, 1), (down, down), NO_PADS, 1.0)
    if up > 1:
        return conv2d(x, weight, groups=groups), Resampling((up, up), (1, 1), pads, up**2)
    if down > 1 and is_pointwise:
        return conv2d(upfirdn2d(x, f, (1, 1), (down, down), pads, flip_filter, 1.0), weight, groups=groups), None
    if down > 1:
        x = upfirdn2d(x, f, (1, 1), (1, 1), pads, flip_filter, 1.0)
        return conv2d(x, weight, stride=down, groups=groups), None
    x, padding = pad_unevenly(x, pads)
    return conv2d(x, weight, padding=padding, groups=groups), None


register("conv2d_resample", "triton", conv2d_resample)
register("modulated_conv2d", "triton", modulated_conv2d)
