"""Bias, activation, gain and clamp in one kernel, and its derivatives to any order.

    y = clamp(gain * act(v)),   v = x + b along one dimension;      dv = g * slope,   slope = dy / dv

Gradients flow to x and b. Saved for the backward, as little as tells the slope: nothing for linear without clamp; y for
linear with clamp, relu, lrelu, tanh, sigmoid, elu, selu and softplus; x and b for swish (not monotonic) and for lrelu
with alpha < 0. Two registered ops:

    smartfast::bias_act(x, b?, dim, act, alpha, gain, clamp?) -> y
    smartfast::bias_act_backward(g, saved?, act, alpha, gain, clamp?) -> dv,   saved as above (v where x and b are)

The second is linear in g, so it is its own derivative; along `saved` it is differentiated in PyTorch's own functions.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import wide
from ..runtime import NAMESPACE, compute_dtype, dense, is_channels_last, launch
from ..selection import register
from .kernels import bias_act_backward_kernel, bias_act_kernel
from .op import Activation

BLOCK = 1024
"""Elements of a program: 8 per thread, 128 bits of half precision."""
CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
"""Activations with a second derivative."""


def launch_forward(x: Tensor, b: Tensor | None, inner: int, activation: Activation) -> Tensor:
    """Run the forward kernel.

    Args:
        x: Any shape, without gaps in memory.
        b: Contiguous; element i of x in memory gets b[i // inner % len(b)]. None = none.

    Returns:
        y, stored as x.
    """
    y = torch.empty_like(x)
    launch(
        bias_act_kernel,
        (triton.cdiv(x.numel(), BLOCK),),
        written=("y",),
        num_warps=4,
        x=x,
        b=b,
        y=y,
        INNER=inner,
        BIAS_SIZE=1 if b is None else len(b),
        **_constants(x, activation),
    )
    return y


def launch_backward(g: Tensor, saved: Tensor | None, activation: Activation) -> Tensor:
    """Run the backward kernel. g and saved have no gaps and the same order in memory.

    Returns:
        dv, stored as g.
    """
    dv = torch.empty_like(g)
    launch(
        bias_act_backward_kernel,
        (triton.cdiv(g.numel(), BLOCK),),
        written=("dv",),
        num_warps=4,
        g=g,
        saved=saved,
        dv=dv,
        FROM_INPUT=_saves_input(activation),
        **_constants(g, activation),
    )
    return dv


def _constants(x: Tensor, activation: Activation) -> dict[str, Any]:
    return dict(
        numel=x.numel(),
        BLOCK=BLOCK,
        OFFSET=tl.int32 if x.numel() + BLOCK < 2**31 else tl.int64,
        ACC=compute_dtype(x.dtype),
        **activation_constants(activation),
    )


def activation_constants(activation: Activation) -> dict[str, Any]:
    """The constants of a kernel that calls `activate`."""
    act, alpha, gain, clamp = activation
    return dict(ACT=act, ALPHA=alpha, GAIN=gain, CLAMP=clamp)


def _saves_input(activation: Activation) -> bool:
    """Whether y does not determine the slope."""
    return activation.act == "swish" or (activation.act == "lrelu" and activation.alpha < 0)


def _without_gaps(x: Tensor) -> Tensor:
    """x as it is if stored as NHWC, else contiguous."""
    return dense(x, channels_last=True) if is_channels_last(x) else x.contiguous()


def bias_act(x: Tensor, b: Tensor | None, dim: int, activation: Activation) -> Tensor:
    """`kernels.bias_act`."""
    if activation.gain == 0:
        # The result is 0 whatever the activation, and its slope cannot be told from 0 / gain.
        activation = activation._replace(act="linear")
    return bias_act_op(x, b, 0 if b is None else dim % x.ndim, *activation)


@torch.library.custom_op(f"{NAMESPACE}::bias_act", mutates_args=())
def bias_act_op(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    x, activation = _without_gaps(x), Activation(act, alpha, gain, clamp)
    if b is None:
        return launch_forward(x, None, 1, activation)
    return launch_forward(x, b.contiguous(), max(x.stride(dim), 1), activation)


@bias_act_op.register_fake
def _bias_act_fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(_without_gaps(x))


@torch.library.custom_op(f"{NAMESPACE}::bias_act_backward", mutates_args=())
def bias_act_backward(
    g: Tensor, saved: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return launch_backward(*_alike(g, saved), Activation(act, alpha, gain, clamp))


@bias_act_backward.register_fake
def _bias_act_backward_fake(g: Tensor, saved: Tensor | None, *rest: Any) -> Tensor:
    return torch.empty_like(_alike(g, saved)[0])


def _alike(g: Tensor, saved: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both without gaps, in the memory order of `saved` if there is one."""
    if saved is None:
        return _without_gaps(g), None
    if is_channels_last(saved):
        return dense(g, channels_last=True), saved
    return g.contiguous(), saved.contiguous()


def _save_for_bias_act(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, ctx.dim, *constants = inputs
    ctx.activation = activation = Activation(*constants)
    ctx.bias_dtype = None if b is None else b.dtype
    if _saves_input(activation):
        ctx.save_for_backward(x, b, None)
    else:
        ctx.save_for_backward(None, None, None if activation.act == "linear" and activation.clamp is None else output)


def _derivative_of_bias_act(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, b, saved = ctx.saved_tensors
    others = [dim for dim in range(g.ndim) if dim != ctx.dim]
    if x is not None:
        saved = x if b is None else x + b.to(x.dtype).reshape([1 if dim in others else -1 for dim in range(x.ndim)])
    dv = g if ctx.activation._replace(alpha=0.0) == Activation() else bias_act_backward(g, saved, *ctx.activation)
    db = None
    if ctx.needs_input_grad[1]:
        total_dtype = torch.float64 if dv.dtype == torch.float64 else torch.float32
        db = (dv.sum(others, dtype=total_dtype) if others else dv).to(ctx.bias_dtype)
    return dv, db, None, None, None, None, None


bias_act_op.register_autograd(_derivative_of_bias_act, setup_context=_save_for_bias_act)


def _save_for_bias_act_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, saved, *constants = inputs
    ctx.activation = Activation(*constants)
    has_curvature = ctx.activation.act in CURVED
    ctx.save_for_backward(g if has_curvature else None, saved)


def _derivative_of_bias_act_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    g, saved = ctx.saved_tensors
    dg = bias_act_backward(cotangent, saved, *ctx.activation) if ctx.needs_input_grad[0] else None
    dsaved = None
    if g is not None and ctx.needs_input_grad[1]:
        dsaved = (wide(cotangent) * wide(g) * _curvature(wide(saved), ctx.activation)).to(saved.dtype)
    return dg, dsaved, None, None, None, None


bias_act_backward.register_autograd(_derivative_of_bias_act_backward, setup_context=_save_for_bias_act_backward)


def _curvature(saved: Tensor, activation: Activation) -> Tensor:
    """Derivative of gain * act'(v) along v for swish, along y for the others.

    Where y is clamped, it has no derivative along x, so that only swish has to look at the clamp.
    """
    act, _, gain, clamp = activation
    u = saved / gain
    if act == "tanh":
        return -2 * u
    if act == "sigmoid":
        return 1 - 2 * u
    if act == "softplus":
        return torch.exp(-u)
    if act == "swish":
        s = torch.sigmoid(saved)
        curvature = gain * s * (1 - s) * (2 + saved * (1 - 2 * s))
        return curvature if clamp is None else torch.where((gain * saved * s).abs() >= clamp, 0.0, curvature)
    return (u < 0).to(u.dtype)  # elu, selu: act'(v) is act(v) plus a constant


register("bias_act", "triton", bias_act)
