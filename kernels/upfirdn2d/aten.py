"""upfirdn2d by PyTorch's depthwise convolution; half precision is computed in float32."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..epilogue.aten import finish
from ..epilogue.op import Epilogue
from ..geometry import Pair, memory_format, pad, pad_unevenly, wide
from ..selection import register, without_autocast
from .op import Resampling


def upfirdn2d(x: Tensor, f: Tensor | None, resampling: Resampling) -> Tensor:
    """`kernels.upfirdn2d`.

    PyTorch's own double backward of a depthwise convolution computes the filter's gradient, one channel at a time,
    even if nobody asks for it: 15 times the cost of the filter. `_Resample` knows better in eager mode; a compiler
    drops what is not used (and would not see the second derivative of an autograd function).
    """
    resample = _resample if torch.compiler.is_compiling() else _Resample.apply
    return resample(x, f, resampling)


def upfirdn2d_finish(x: Tensor, f: Tensor | None, resampling: Resampling, epilogue: Epilogue) -> Tensor:
    """`upfirdn2d` and `finish`."""
    return finish(upfirdn2d(x, f, resampling), epilogue)


def _resample(x: Tensor, f: Tensor | None, resampling: Resampling) -> Tensor:
    up, (down_x, down_y), (x0, x1, y0, y1), flip_filter, gain = resampling
    dtype = x.dtype
    x = wide(x)
    if up != (1, 1):
        # The zeros after the last sample are padding like any other.
        x, x1, y1 = _insert_zeros(x, up), x1 + up[0] - 1, y1 + up[1] - 1
    if f is None:
        x = pad(x, (x0, x1, y0, y1))[:, :, ::down_y, ::down_x] * gain
        return x.to(dtype)
    f = f.detach().to(x.dtype)
    if not flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    x, (pad_y, pad_x) = pad_unevenly(x, (x0, x1, y0, y1))
    n, c, h, w = x.shape
    is_fixed = not torch.compiler.is_exporting()  # a program for any number of images cannot have as many groups
    if is_folded := is_fixed and n > 0 and x.device.type == "cpu" and x.is_contiguous():
        x = x.view(1, n * c, h, w)  # oneDNN works on blocks of channels: much faster where an image has few
        c = n * c
    if f.ndim == 2:
        x = F.conv2d(x, (f * gain).expand(c, 1, *f.shape), stride=(down_y, down_x), padding=(pad_y, pad_x), groups=c)
    else:
        x = F.conv2d(x, f[None, :].expand(c, 1, 1, -1), stride=(1, down_x), padding=(0, pad_x), groups=c)
        x = F.conv2d(x, (f * gain)[:, None].expand(c, 1, -1, 1), stride=(down_y, 1), padding=(pad_y, 0), groups=c)
    if is_folded:
        x = x.unflatten(1, (n, -1))[0]
    return x.to(dtype)


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
    def forward(ctx: Any, x: Tensor, f: Tensor | None, resampling: Resampling) -> Tensor:
        y = without_autocast(_resample, x.device, x, f, resampling)  # backward comes here too
        ctx.save_for_backward(f)
        ctx.adjoint = resampling.adjoint(x, f, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        return _Resample.apply(dy, f, ctx.adjoint), None, None


register("upfirdn2d", "aten", upfirdn2d)
register("upfirdn2d_finish", "aten", upfirdn2d_finish)
