"""The epilogue of StyleGAN2's layers as an op of its own: what follows a convolution that a library computed.

    v = d[n, c] * z + noise[n, h, w] + bias[c],     y = s[n, c] * clamp(gain * act(v))

act is linear, relu or lrelu; everything but z is optional (d: demodulation, s: next_styles). Gradients of every order
flow to all five tensors. z is saved, not y. One kernel computes y; one computes dz and, for the other gradients that
are wanted, partial sums per program that PyTorch adds up: no atomics, the same bits every time.

Two registered ops; kernels that fuse this epilogue build their own derivative from the second:

    smartfast::finish(z, demodulation?, noise?, bias?, next_styles?, act, alpha, gain, clamp?) -> y
    smartfast::finish_backward(g, z, demodulation?, noise?, bias?, next_styles?, act, alpha, gain, clamp?, bool[] needs)
        -> (dz, d_demodulation, d_noise, d_bias, d_next_styles)

g is the gradient of y, in any layout. needs has four booleans, one for each of the last four results, which are empty
tensors [0] where it says False. dz has the dtype and layout of z; the others have the shape and dtype of their tensor.
Call it as `finish_backward(...)` from this module. It is differentiable itself.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.kernels.epilogue.kernels import dense_as_stored, launch_finish, launch_finish_backward
from smartfast.kernels.runtime import NAMESPACE
from smartfast.kernels.score_noise import aten as reference

__all__ = ["finish", "finish_backward", "launch_finish", "launch_finish_backward"]

ACTIVATIONS = ("linear", "relu", "lrelu")


def finish(
    z: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Demodulate, add noise and bias, activate, scale and clamp, and apply the next layer's styles: see above.

    Args:
        z: [N, C, H, W], float16, bfloat16, float32 or float64; computed in float32 (float64), without a copy if stored
            as NHWC or NCHW.
        demodulation, next_styles: [N, C], any floating dtype, or None.
        noise: [N, 1, H, W], or [H, W] for all samples, or None.
        bias: [C] or None.
        act: linear, relu or lrelu.
        alpha: Slope of lrelu below zero.
        gain: Factor after the activation.
        clamp: Largest magnitude before next_styles; None = none.

    Returns:
        y, shape and dtype of z; NHWC if z is stored so, else NCHW.

    Raises:
        ValueError: A shape, dtype or activation other than above.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected {', '.join(ACTIVATIONS)}")
    if z.ndim != 4:
        raise ValueError(f"z has shape {tuple(z.shape)}, expected [N, C, H, W]")
    n, c, h, w = z.shape
    _check("demodulation", demodulation, (n, c))
    _check("noise", noise, (h, w) if noise is not None and noise.ndim == 2 else (n, 1, h, w))
    _check("bias", bias, (c,))
    _check("next_styles", next_styles, (n, c))
    return finish_op(z, demodulation, noise, bias, next_styles, act, alpha, gain, clamp)


def _check(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


@torch.library.custom_op(f"{NAMESPACE}::finish", mutates_args=())
def finish_op(
    z: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    return launch_finish(z, demodulation, noise, bias, next_styles, act, alpha, gain, clamp)


@finish_op.register_fake
def _finish_fake(z: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(dense_as_stored(z))


@torch.library.custom_op(f"{NAMESPACE}::finish_backward", mutates_args=())
def finish_backward(
    g: Tensor,
    z: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (demodulation, noise, bias, next_styles)
    dz, partial = launch_finish_backward(g, z, *tensors, act, alpha, gain, clamp, needs)
    over_samples = (False, noise is not None and noise.ndim == 2, True, False)
    sums = [
        z.new_empty(0) if t is None or p is None else p.sum((0, 1) if over else 1).reshape(t.shape).to(t.dtype)
        for t, p, over in zip(tensors, partial, over_samples, strict=True)
    ]
    return dz, sums[0], sums[1], sums[2], sums[3]


@finish_backward.register_fake
def _finish_backward_fake(g: Tensor, z: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    tensors, needs = rest[:4], rest[-1]
    sums = [
        t.new_empty(t.shape) if need and t is not None else z.new_empty(0)
        for t, need in zip(tensors, needs, strict=True)
    ]
    return torch.empty_like(dense_as_stored(z)), *sums


def _save_for_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.constants = inputs[5:]


def _derivative_of_finish(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[1:5])
    dz, *sums = finish_backward(g, *ctx.saved_tensors, *ctx.constants, needs)
    return dz, *(gradient if need else None for gradient, need in zip(sums, needs, strict=True)), None, None, None, None


finish_op.register_autograd(_derivative_of_finish, setup_context=_save_for_finish)


def _save_for_finish_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.constants = inputs[6:10]
    ctx.mark_non_differentiable(*(sums for sums, need in zip(output[1:], inputs[10], strict=True) if not need))
    ctx.set_materialize_grads(False)


def _derivative_of_finish_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """In PyTorch's own differentiable functions, which a compiler fuses.

    For cotangents t of the five results, the sum of g * t_y is differentiated, where t_y is the directional derivative
    of y along t: s * slope * direction + t_s * level, direction = t_z * d + t_d * z + t_noise + t_bias that of v.
    """
    inputs = ctx.saved_tensors
    g, z, d, noise, b, s = _as_images(*inputs)
    t_z, t_d, t_noise, t_b, t_s = _as_images(None, *cotangents)[1:]
    v = _total(_scaled(z, d), noise, b)
    level, slope_times = _activation(v, *ctx.constants)
    h = slope_times(g)
    direction = _total(_scaled(t_z, d), _product(t_d, z), t_noise, t_b)
    needs = ctx.needs_input_grad
    d_shift = _product(h, t_s) if needs[3] or needs[4] else None
    gradients = (
        _total(_scaled(slope_times(direction), s), _product(t_s, level)) if needs[0] else None,
        _product(h, _total(_scaled(t_d, s), _scaled(t_s, d))) if needs[1] else None,
        _product(h, _total(_scaled(t_z, s), _product(t_s, z))) if needs[2] else None,
        d_shift if needs[3] else None,
        d_shift if needs[4] else None,
        _product(h, direction) if needs[5] else None,
    )
    images = (g, z, d, noise, b, s)
    return *(_reduced(*item) for item in zip(gradients, images, inputs, strict=True)), None, None, None, None, None


finish_backward.register_autograd(_derivative_of_finish_backward, setup_context=_save_for_finish_backward)


def _as_images(
    g: Tensor | None, z: Tensor | None, d: Tensor | None, noise: Tensor | None, b: Tensor | None, s: Tensor | None
) -> list[Tensor | None]:
    """All in at least float32, in shapes that broadcast to [N, C, H, W]."""
    expanded = (
        g,
        z,
        None if d is None else d[:, :, None, None],
        noise,
        None if b is None else b[:, None, None],
        None if s is None else s[:, :, None, None],
    )
    return [None if t is None else reference.wide(t) for t in expanded]


def _activation(
    v: Tensor, act: str, alpha: float, gain: float, clamp: float | None
) -> tuple[Tensor, Callable[[Tensor | None], Tensor | None]]:
    """clamp(gain * act(v)), and the function that multiplies by its derivative (None stands for zero)."""
    below_zero = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}[act]
    level = reference.activate(v, act, alpha) * gain
    if clamp is not None:
        level = F.hardtanh(level, -clamp, clamp)

    def slope_times(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        x = torch.where(v > 0, x * gain, x * (gain * below_zero))
        return x if clamp is None else torch.where(level.abs() >= clamp, 0.0, x)

    return level, slope_times


def _scaled(x: Tensor | None, factor: Tensor | None) -> Tensor | None:
    """x times a factor that is 1 where there is none; None stands for zero."""
    return x if x is None or factor is None else x * factor


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """None stands for zero."""
    return None if a is None or b is None else a * b


def _total(*terms: Tensor | None) -> Any:
    """The sum of the terms that are there; None stands for zero."""
    there = [term for term in terms if term is not None]
    return reduce(add, there) if there else None


def _reduced(gradient: Tensor | None, image: Tensor | None, like: Tensor | None) -> Tensor | None:
    """A gradient [N, C, H, W] summed to where `image` was broadcast from, in shape and dtype of `like`."""
    if gradient is None or image is None or like is None:
        return None
    return gradient.sum_to_size(image.shape).reshape(like.shape).to(like.dtype)
