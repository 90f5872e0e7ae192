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

from smartfast.kernels.epilogue.op import activate
from smartfast.kernels.runtime import NAMESPACE, compute_dtype, dense, is_channels_last, launch
from smartfast.kernels.score_noise.aten import wide
from smartfast.kernels.selection import register

BLOCK = 1024
"""Elements of a program: 8 per thread, 128 bits of half precision."""
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
"""Klambauer et al., arXiv 1706.02515, section 2."""
CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
"""Activations with a second derivative."""


@triton.jit
def _exp_minus_1(x):
    """exp(x) - 1 for x <= 0, with small relative error: near 0 its Taylor series, exact to float64 at 1/4."""
    series = tl.full(x.shape, 1.0, x.dtype)
    for i in tl.static_range(13, 1, -1):
        series = series * (x * (1.0 / i)) + 1.0
    return tl.where(x > -0.25, x * series, tl.exp(x) - 1.0)


@triton.jit
def _log_1_plus(x):
    """log(1 + x) for 0 <= x <= 1 as 2 artanh(x / (2 + x)); the series is exact to float64 at 1/3."""
    t = x / (x + 2.0)
    series = tl.zeros(x.shape, x.dtype)
    for i in tl.static_range(35, 0, -2):
        series = series * (t * t) + 1.0 / i
    return 2.0 * t * series


@triton.jit
def _curve(v, ACT: tl.constexpr):
    """act(v) of the activations that `activate` does not know; others unchanged."""
    if ACT == "tanh":
        m = _exp_minus_1(-2.0 * tl.abs(v))
        v = tl.where(v < 0, m, -m) / (m + 2.0)
    if ACT == "sigmoid":
        v = 1.0 / (1.0 + tl.exp(-v))
    if ACT == "elu":
        v = tl.where(v > 0, v, _exp_minus_1(v))
    if ACT == "selu":
        v = SELU_SCALE * tl.where(v > 0, v, SELU_ALPHA * _exp_minus_1(v))
    if ACT == "softplus":
        v = tl.where(v > 0, v, 0.0) + _log_1_plus(tl.exp(-tl.abs(v)))
    if ACT == "swish":
        v = v / (1.0 + tl.exp(-v))
    return v


@triton.jit
def _slope_from_input(v, ALPHA: tl.constexpr, ACT: tl.constexpr):
    """act'(v) of the activations that y does not tell."""
    slope = tl.full(v.shape, 1.0, v.dtype)
    if ACT == "lrelu":
        slope = tl.where(v > 0, slope, ALPHA)
    if ACT == "swish":
        s = 1.0 / (1.0 + tl.exp(-v))
        slope = s * (1.0 + v * (1.0 - s))
    return slope


@triton.jit
def _slope_from_output(u, ALPHA: tl.constexpr, ACT: tl.constexpr):
    """act'(v) as a function of u = act(v)."""
    slope = tl.full(u.shape, 1.0, u.dtype)
    if ACT == "relu":
        slope = tl.where(u > 0, slope, 0.0)
    if ACT == "lrelu":
        slope = tl.where(u > 0, slope, ALPHA)
    if ACT == "tanh":
        slope = 1.0 - u * u
    if ACT == "sigmoid":
        slope = u * (1.0 - u)
    if ACT == "elu":
        slope = tl.where(u > 0, slope, u + 1.0)
    if ACT == "selu":
        slope = tl.where(u > 0, SELU_SCALE, u + SELU_SCALE * SELU_ALPHA)
    if ACT == "softplus":
        slope = -_exp_minus_1(-u)
    return slope


@triton.jit
def _bias_act_kernel(
    x,
    b,
    y,
    numel,
    INNER: tl.constexpr,
    BIAS_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OFFSET: tl.constexpr,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
):
    """grid (blocks of elements). INNER consecutive elements share one value of b, which has BIAS_SIZE."""
    offsets = tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
    if b is not None:
        v = v + tl.load(b + offsets // INNER % BIAS_SIZE, mask=mask, other=0.0).to(ACC)
    result = activate(_curve(v, ACT), ALPHA, GAIN, CLAMP, ACT)
    tl.store(y + offsets, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _bias_act_backward_kernel(
    g,
    saved,
    dv,
    numel,
    FROM_INPUT: tl.constexpr,
    BLOCK: tl.constexpr,
    OFFSET: tl.constexpr,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
):
    """grid (blocks of elements). saved: v (FROM_INPUT), y, or None where the slope is the same everywhere."""
    offsets = tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    gradient = tl.load(g + offsets, mask=mask, other=0.0).to(ACC) * GAIN
    if saved is not None:
        y = tl.load(saved + offsets, mask=mask, other=0.0).to(ACC)
        # A clamped y was saved as the clamp rounded to its dtype, which can be less than the clamp.
        limit_dtype: tl.constexpr = ACC if FROM_INPUT else saved.dtype.element_ty
        if FROM_INPUT:
            gradient = gradient * _slope_from_input(y, ALPHA, ACT)
            y = activate(_curve(y, ACT), ALPHA, GAIN, CLAMP, ACT)
        elif ACT != "linear":
            gradient = gradient * _slope_from_output(y / GAIN, ALPHA, ACT)
        if CLAMP is not None:
            limit = tl.full(y.shape, CLAMP, ACC).to(limit_dtype).to(ACC)
            gradient = tl.where(tl.abs(y) >= limit, 0.0, gradient)
    tl.store(dv + offsets, gradient.to(dv.dtype.element_ty), mask=mask)


def launch_forward(
    x: Tensor, b: Tensor | None, inner: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """Run the forward kernel.

    Args:
        x: Any shape, without gaps in memory.
        b: Contiguous; element i of x in memory gets b[i // inner % len(b)]. None = none.

    Returns:
        y, stored as x.
    """
    y = torch.empty_like(x)
    launch(
        _bias_act_kernel,
        (triton.cdiv(x.numel(), BLOCK),),
        written=("y",),
        num_warps=4,
        x=x,
        b=b,
        y=y,
        INNER=inner,
        BIAS_SIZE=1 if b is None else len(b),
        **_constants(x, act, alpha, gain, clamp),
    )
    return y


def launch_backward(
    g: Tensor, saved: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """Run the backward kernel. g and saved have no gaps and the same order in memory.

    Returns:
        dv, stored as g.
    """
    dv = torch.empty_like(g)
    launch(
        _bias_act_backward_kernel,
        (triton.cdiv(g.numel(), BLOCK),),
        written=("dv",),
        num_warps=4,
        g=g,
        saved=saved,
        dv=dv,
        FROM_INPUT=_saves_input(act, alpha),
        **_constants(g, act, alpha, gain, clamp),
    )
    return dv


def _constants(x: Tensor, act: str, alpha: float, gain: float, clamp: float | None) -> dict[str, Any]:
    return dict(
        numel=x.numel(),
        BLOCK=BLOCK,
        OFFSET=tl.int32 if x.numel() + BLOCK < 2**31 else tl.int64,
        ALPHA=alpha,
        GAIN=gain,
        CLAMP=clamp,
        ACT=act,
        ACC=compute_dtype(x.dtype),
    )


def _saves_input(act: str, alpha: float) -> bool:
    """Whether y does not determine the slope."""
    return act == "swish" or (act == "lrelu" and alpha < 0)


def _without_gaps(x: Tensor) -> Tensor:
    """x as it is if stored as NHWC, else contiguous."""
    return dense(x, channels_last=True) if is_channels_last(x) else x.contiguous()


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """`kernels.bias_act`."""
    if gain == 0:
        act = "linear"  # the result is 0 whatever the activation, and its slope cannot be told from 0 / gain
    return bias_act_op(x, b, 0 if b is None else dim % x.ndim, act, alpha, gain, clamp)


@torch.library.custom_op(f"{NAMESPACE}::bias_act", mutates_args=())
def bias_act_op(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    x = _without_gaps(x)
    if b is None:
        return launch_forward(x, None, 1, act, alpha, gain, clamp)
    return launch_forward(x, b.contiguous(), max(x.stride(dim), 1), act, alpha, gain, clamp)


@bias_act_op.register_fake
def _bias_act_fake(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(_without_gaps(x))


@torch.library.custom_op(f"{NAMESPACE}::bias_act_backward", mutates_args=())
def bias_act_backward(
    g: Tensor, saved: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    return launch_backward(*_alike(g, saved), act, alpha, gain, clamp)


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
    x, b, ctx.dim, act, alpha, gain, clamp = inputs
    ctx.constants = act, alpha, gain, clamp
    ctx.bias_dtype = None if b is None else b.dtype
    if _saves_input(act, alpha):
        ctx.save_for_backward(x, b, None)
    else:
        ctx.save_for_backward(None, None, None if act == "linear" and clamp is None else output)


def _derivative_of_bias_act(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, b, saved = ctx.saved_tensors
    others = [dim for dim in range(g.ndim) if dim != ctx.dim]
    if x is not None:
        saved = x if b is None else x + b.to(x.dtype).reshape([1 if dim in others else -1 for dim in range(x.ndim)])
    act, _, gain, clamp = ctx.constants
    is_identity = act == "linear" and gain == 1 and clamp is None
    dv = g if is_identity else bias_act_backward(g, saved, *ctx.constants)
    db = None
    if ctx.needs_input_grad[1]:
        total_dtype = torch.float64 if dv.dtype == torch.float64 else torch.float32
        db = (dv.sum(others, dtype=total_dtype) if others else dv).to(ctx.bias_dtype)
    return dv, db, None, None, None, None, None


bias_act_op.register_autograd(_derivative_of_bias_act, setup_context=_save_for_bias_act)


def _save_for_bias_act_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, saved, *ctx.constants = inputs
    has_curvature = ctx.constants[0] in CURVED
    ctx.save_for_backward(g if has_curvature else None, saved)


def _derivative_of_bias_act_backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    g, saved = ctx.saved_tensors
    act, _, gain, clamp = ctx.constants
    dg = bias_act_backward(cotangent, saved, *ctx.constants) if ctx.needs_input_grad[0] else None
    dsaved = None
    if g is not None and ctx.needs_input_grad[1]:
        dsaved = (wide(cotangent) * wide(g) * _curvature(wide(saved), act, gain, clamp)).to(saved.dtype)
    return dg, dsaved, None, None, None, None


bias_act_backward.register_autograd(_derivative_of_bias_act_backward, setup_context=_save_for_bias_act_backward)


def _curvature(saved: Tensor, act: str, gain: float, clamp: float | None) -> Tensor:
    """Derivative of gain * act'(v) along v for swish, along y for the others.

    Where y is clamped, it has no derivative along x, so that only swish has to look at the clamp.
    """
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
