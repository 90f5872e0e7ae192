"""Kernels of bias_act: forward, and the slope times a gradient. `activate` serves every kernel with an epilogue."""

import triton
import triton.language as tl

SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
"""Klambauer et al., arXiv 1706.02515, section 2."""


@triton.jit
def activate(v, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr):
    """clamp(gain * act(v)); CLAMP = None for none. A NaN stays one, so that a training step is seen to be bad.

    Constants are constexpr to fold and to keep float64 exact; minimum and maximum would round a bare one to float32.
    """
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)
    if ACT == "lrelu":
        v = tl.where(v > 0, v, v * ALPHA)
    v = v * GAIN
    if CLAMP is not None:
        limit = tl.full(v.shape, CLAMP, v.dtype)
        v = tl.maximum(v, -limit, propagate_nan=tl.PropagateNan.ALL)
        v = tl.minimum(v, limit, propagate_nan=tl.PropagateNan.ALL)
    return v


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
def bias_act_kernel(
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
def bias_act_backward_kernel(
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
