"""The ops in plain PyTorch: what each one computes, and what runs on a CPU.

Arguments come checked and complete from the ops' public functions, which document them. Half precision is
computed in float32 except in convolutions on a GPU, which accumulate in float32 by themselves; float64 stays
float64. Everything is made of PyTorch's own differentiable functions (and one linear autograd function that is
its own derivative), so gradients of every order are right, in eager mode and under torch.compile.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.kernels.geometry import Pair, Quad, filter_size, memory_format
from smartfast.kernels.philox.op import normal_reference, signed

HALF = (torch.float16, torch.bfloat16)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair,
    down: Pair,
    pads: Quad,
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """`kernels.upfirdn2d`.

    PyTorch's own double backward of a depthwise convolution computes the filter's gradient, one channel at a time,
    even if nobody asks for it: 15 times the cost of the filter. `_Resample` knows better in eager mode; a compiler
    drops what is not used (and would not see the second derivative of an autograd function).
    """
    resample = _resample if torch.compiler.is_compiling() else _Resample.apply
    return resample(x, f, up, down, pads, flip_filter, gain)


def _resample(x: Tensor, f: Tensor | None, up: Pair, down: Pair, pads: Quad, flip_filter: bool, gain: float) -> Tensor:
    dtype = x.dtype
    x = wide(x)
    x0, x1, y0, y1 = pads
    if up != (1, 1):
        # The zeros after the last sample are padding like any other.
        x, x1, y1 = _insert_zeros(x, up), x1 + up[0] - 1, y1 + up[1] - 1
    down_x, down_y = down
    if f is None:
        x = F.pad(x, [x0, x1, y0, y1])[:, :, ::down_y, ::down_x] * gain
        return x.to(dtype)
    f = f.detach().to(x.dtype) * gain ** (f.ndim / 2)
    if not flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    c = x.shape[1]
    x, (pad_y, pad_x) = pad_unevenly(x, (x0, x1, y0, y1))
    if f.ndim == 2:
        x = F.conv2d(x, f.expand(c, 1, *f.shape), stride=(down_y, down_x), padding=(pad_y, pad_x), groups=c)
    else:
        x = F.conv2d(x, f[None, :].expand(c, 1, 1, -1), stride=(1, down_x), padding=(0, pad_x), groups=c)
        x = F.conv2d(x, f[:, None].expand(c, 1, -1, 1), stride=(down_y, 1), padding=(pad_y, 0), groups=c)
    return x.to(dtype)


def pad_unevenly(x: Tensor, pads: Quad) -> tuple[Tensor, Pair]:
    """Pad x with what a convolution's own padding cannot do: crops and differences between the two sides.

    Returns:
        The padded x and the padding (y, x) that is left to the convolution, which it does without a copy.
    """
    x0, x1, y0, y1 = pads
    pad_x, pad_y = max(min(x0, x1), 0), max(min(y0, y1), 0)
    rest = (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)
    return (F.pad(x, rest) if any(rest) else x), (pad_y, pad_x)


def _insert_zeros(x: Tensor, up: Pair) -> Tensor:
    """up - 1 zeros between samples, none after the last."""
    n, c, h, w = x.shape
    size = (n, c, max((h - 1) * up[1] + 1, 0), max((w - 1) * up[0] + 1, 0))
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x)).zero_()
    y[:, :, :: up[1], :: up[0]] = x
    return y


class _Resample(torch.autograd.Function):
    """`_resample` whose derivative is the same op with up and down exchanged, and so differentiable to any order.

    A separate `setup_context` would admit torch.func, which raises an error like this; it costs 50 us per call.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Tensor | None, up: Pair, down: Pair, pads: Quad, flip_filter: bool, gain: float
    ) -> Tensor:
        y = _resample(x, f, up, down, pads, flip_filter, gain)
        (fw, fh), (x0, _, y0, _) = filter_size(f), pads
        x1 = x.shape[3] * up[0] - y.shape[3] * down[0] + x0 - up[0] + 1
        y1 = x.shape[2] * up[1] - y.shape[2] * down[1] + y0 - up[1] + 1
        ctx.save_for_backward(f)
        ctx.options = (down, up, (fw - 1 - x0, x1, fh - 1 - y0, y1), not flip_filter, gain)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        return _Resample.apply(dy, f, *ctx.options), None, None, None, None, None, None


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """`kernels.bias_act`."""
    dtype = x.dtype
    x = wide(x)
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    x = activate(x, act, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        # The same as clamp(), with a gradient in one pass instead of four.
        x = F.hardtanh(x, -clamp, clamp)
    return x.to(dtype)


def activate(x: Tensor, act: str, alpha: float) -> Tensor:
    """The activations of `kernels.bias_act`."""
    match act:
        case "linear":
            return x
        case "relu":
            return F.relu(x)
        case "lrelu":
            return F.leaky_relu(x, alpha)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "elu":
            return F.elu(x)
        case "selu":
            return F.selu(x)
        case "softplus":
            return F.softplus(x)
        case "swish":
            return F.silu(x)
    raise ValueError(f"act is {act!r}, which is no activation")


def noise_forward(
    x: Tensor, alpha: Tensor, sigma: Tensor, seed: int, stream: Tensor, purpose: int, dtype: torch.dtype
) -> Tensor:
    """`kernels.noise_forward`."""
    x = wide(x)
    eps = noise_like(x, seed, stream, purpose)
    return (x * per_image(alpha, x) + eps * per_image(sigma, x)).to(dtype)


def denoise_distance(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
    weight: Tensor | None,
) -> Tensor:
    """`kernels.denoise_distance` to the target x_factor * x + noise_factor * eps.

    Factors None = 1; x None, stream None = a term that is not there.
    """
    residual = _denoise_residual(prediction, x, x_factor, noise_factor, stream, seed, purpose)
    distance = residual.square().mean(dim=[1, 2, 3])
    return distance if weight is None else distance * weight.to(distance.dtype)


@torch.no_grad()
def denoise_distance_and_gradient(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
    weight: Tensor | None,
    overwrite: bool,
) -> tuple[Tensor, Tensor]:
    """`kernels.denoise_distance_and_gradient`; target as `denoise_distance`."""
    residual = _denoise_residual(prediction, x, x_factor, noise_factor, stream, seed, purpose)
    distance = residual.square().mean(dim=[1, 2, 3])
    gradient = residual * (2 / math.prod(prediction.shape[1:]))
    if weight is not None:
        distance = distance * weight.to(distance.dtype)
        gradient = gradient * per_image(weight, gradient)
    return distance, prediction.copy_(gradient) if overwrite else gradient.to(prediction.dtype)


def _denoise_residual(
    prediction: Tensor,
    x: Tensor | None,
    x_factor: Tensor | None,
    noise_factor: Tensor | None,
    stream: Tensor | None,
    seed: int,
    purpose: int,
) -> Tensor:
    residual = wide(prediction)
    if x is not None:
        x = x.to(residual.dtype)
        residual = residual - (x if x_factor is None else x * per_image(x_factor, x))
    if stream is not None:
        eps = noise_like(residual, seed, stream, purpose)
        residual = residual - (eps if noise_factor is None else eps * per_image(noise_factor, eps))
    return residual


def wide(x: Tensor) -> Tensor:
    """x in a dtype of at least float32."""
    return x.float() if x.dtype in HALF else x


def per_image(factor: Tensor, images: Tensor) -> Tensor:
    """factor [N] in the dtype of `images`, to be multiplied with them."""
    return factor.to(images.dtype)[:, None, None, None]


def noise_like(x: Tensor, seed: int, stream: Tensor, purpose: int) -> Tensor:
    """The noise of images [N, C, H, W], in the shape and dtype of x."""
    eps = normal_reference(signed(seed), stream, x[0].numel() if len(x) else 0, purpose)
    return eps.to(x.dtype).reshape(x.shape)
