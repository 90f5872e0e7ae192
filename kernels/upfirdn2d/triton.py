"""upfirdn2d on Triton kernels, alone and with the epilogue of StyleGAN2's layers.

    z = upfirdn2d(x, f),    y = s[n, c] * clamp(gain * act(d[n, c] * z + noise[n, h, w] + bias[c]))

The derivative of z for x is the same op with up and down exchanged and the filter flipped, so it has every order; the
filter gets no gradient. The fused form saves x and computes z again in its backward. Two registered ops,
smartfast::upfirdn2d and smartfast::upfirdn2d_finish. The filter is read on the device; nothing waits for the host.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..bias_act.op import Activation
from ..epilogue.op import Epilogue
from ..epilogue.triton import epilogue_arguments, finish_backward, finish_rest, split
from ..geometry import filter_size, memory_format
from ..runtime import NAMESPACE, compute_dtype, launch, next_power_of_two
from ..selection import register
from .kernels import direct_kernel, polyphase_kernel, slide_kernel
from .op import Resampling

SMALL_FILTER = 4
"""Most taps per axis of a filter whose weights stay in registers; longer 1-D filters take one pass per axis."""
ALIGNMENT = 8
"""Channels of 128 bits in half precision. NHWC images with fewer (RGB) take the direct kernel."""
TILE = 1024
"""Elements of a tile: 8 per thread, 4 warps."""
DIRECT_REGISTERS, SLIDE_REGISTERS, POLYPHASE_REGISTERS = 128, 144, 96
"""Of a thread, where the compiler's own target makes it spill on some GPU (`python -m bench.proofs.compile_report`)."""
TILE_INNER = 64
"""Elements of a tile that lie side by side in memory, more only if there is nothing else to take."""
MOST_ROWS = 32
"""Steps of a program down its strip: long strips read fewer rows twice."""
PROGRAMS_WANTED = 512
"""Strips get shorter until a launch has about as many programs as an H100 holds at once, 4 on each of 132 units."""


class _Filter(NamedTuple):
    """Taps [height, width], or [height] for both axes where separable; None = one tap of 1."""

    taps: Tensor | None
    height: int
    width: int
    separable: bool


def upfirdn2d(x: Tensor, f: Tensor | None, resampling: Resampling) -> Tensor:
    """`kernels.upfirdn2d`. The result is stored as NHWC if x is, else as NCHW."""
    return upfirdn2d_op(x, f, *resampling)


def upfirdn2d_finish(x: Tensor, f: Tensor | None, resampling: Resampling, epilogue: Epilogue) -> Tensor:
    """`upfirdn2d` and what follows it in a layer, in one pass over memory. Gradients of every order, none for f."""
    first, rest = split(epilogue)
    return finish_rest(upfirdn2d_finish_op(x, f, *resampling, *first.tensors, *first.activation), rest)


@torch.library.custom_op(f"{NAMESPACE}::upfirdn2d", mutates_args=())
def upfirdn2d_op(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    pads: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """The registered op of `upfirdn2d`."""
    return launch_upfirdn2d(x, f, _resampling(up, down, pads, flip_filter, gain))


@torch.library.custom_op(f"{NAMESPACE}::upfirdn2d_finish", mutates_args=())
def upfirdn2d_finish_op(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    pads: Sequence[int],
    flip_filter: bool,
    gain: float,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    act_gain: float,
    clamp: float | None,
) -> Tensor:
    """The registered op of `upfirdn2d_finish`."""
    epilogue = Epilogue(demodulation, noise, bias, next_styles, Activation(act, alpha, act_gain, clamp))
    return launch_upfirdn2d(x, f, _resampling(up, down, pads, flip_filter, gain), epilogue)


def _resampling(
    up: Sequence[int], down: Sequence[int], pads: Sequence[int], flip_filter: bool, gain: float
) -> Resampling:
    """From the lists that an op is given."""
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = up, down, pads
    return Resampling((up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), flip_filter, gain)


def launch_upfirdn2d(x: Tensor, f: Tensor | None, resampling: Resampling, epilogue: Epilogue | None = None) -> Tensor:
    """Allocate the result and launch its kernels: one, or two for a long 1-D filter, float32 between them."""
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), flip, gain = resampling
    layout = memory_format(x)  # of the result too; an image between two passes may be too small to tell
    x = x.contiguous(memory_format=layout)
    if f is not None:
        f = f.contiguous()
    kw, kh = filter_size(f)
    if f is None or f.ndim == 2 or kw <= SMALL_FILTER:
        taps = _Filter(f, kh, kw, f is not None and f.ndim == 1)
        return _launch(x, taps, resampling, epilogue, x.dtype, layout)
    between = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = Resampling((up_x, 1), (down_x, 1), (x0, x1, 0, 0), flip)
    columns = Resampling((1, up_y), (1, down_y), (0, 0, y0, y1), flip, gain)
    z = _launch(x, _Filter(f, 1, kw, False), rows, None, between, layout)
    return _launch(z, _Filter(f, kh, 1, False), columns, epilogue, x.dtype, layout)


def _launch(
    x: Tensor,
    f: _Filter,
    resampling: Resampling,
    epilogue: Epilogue | None,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Tensor:
    """One kernel from x, dense in `layout`, to the result in `dtype`, stored alike."""
    up, down, pads, flip, gain = resampling
    n, c, h, w = x.shape
    oh = (h * up[1] + pads[2] + pads[3] - f.height) // down[1] + 1
    ow = (w * up[0] + pads[0] + pads[1] - f.width) // down[0] + 1
    y = torch.empty((n, c, oh, ow), dtype=dtype, device=x.device, memory_format=layout)
    shared = dict(
        x=x,
        y=y,
        f=f.taps,
        H=h,
        W=w,
        C=c,
        OH=oh,
        OW=ow,
        pad_x=pads[0],
        pad_y=pads[2],
        KH=f.height,
        KW=f.width,
        SEPARABLE=f.separable,
        FLIP=flip,
        FILTER_GAIN=gain,
        ALIGNMENT=ALIGNMENT if c % ALIGNMENT == 0 else 1,
        ACC=compute_dtype(x.dtype),
        **epilogue_arguments(epilogue or Epilogue()),
    )
    channels_last = layout == torch.channels_last
    if channels_last and c >= ALIGNMENT and max(f.height, f.width) <= SMALL_FILTER:
        if up == (1, 1) and down in ((1, 1), (2, 2)):
            _launch_strips(slide_kernel, shared, n, steps=oh, columns=ow, max_registers=SLIDE_REGISTERS, DOWN=down[0])
            return y
        if up == (2, 2) and down == (1, 1):
            # A pair of outputs begins at -1 or 0, see the kernel.
            steps, columns = (oh + 2 - pads[2] % 2) // 2, (ow + 1 + pads[0] % 2) // 2
            is_small = epilogue is None and x.dtype.itemsize == 2
            registers = POLYPHASE_REGISTERS if is_small else None
            _launch_strips(polyphase_kernel, shared, n, steps=steps, columns=columns, max_registers=registers)
            return y
    _launch_direct(shared, n, channels_last, UP_X=up[0], UP_Y=up[1], DOWN_X=down[0], DOWN_Y=down[1])
    return y


def _launch_direct(shared: dict[str, Any], samples: int, channels_last: bool, **constants: int) -> None:
    c, oh, ow = shared["C"], shared["OH"], shared["OW"]
    if channels_last:
        block_c, block_w, block_h = tile(c, ow, oh)
    else:
        block_w, block_h, block_c = tile(ow, oh, c)
    launch(
        direct_kernel,
        (samples * triton.cdiv(oh, block_h), triton.cdiv(ow, block_w), triton.cdiv(c, block_c)),
        written=("y",),
        num_warps=_warps(block_h * block_w * block_c),
        max_registers=DIRECT_REGISTERS,
        **shared,
        **constants,
        CHANNELS_LAST=channels_last,
        BLOCK_H=block_h,
        BLOCK_W=block_w,
        BLOCK_C=block_c,
    )


def _launch_strips(
    kernel: triton.JITFunction,
    shared: dict[str, Any],
    samples: int,
    *,
    steps: int,
    columns: int,
    max_registers: int | None = None,
    **constants: int,
) -> None:
    block_c, block_p, _ = tile(shared["C"], columns, 1)
    tiles = triton.cdiv(columns, block_p) * triton.cdiv(shared["C"], block_c)
    rows = min(MOST_ROWS, next_power_of_two(steps))
    while rows > 4 and samples * tiles * triton.cdiv(steps, rows) < PROGRAMS_WANTED:
        rows //= 2
    launch(
        kernel,
        (samples * triton.cdiv(steps, rows), triton.cdiv(columns, block_p), triton.cdiv(shared["C"], block_c)),
        written=("y",),
        num_warps=_warps(block_p * block_c),
        max_registers=max_registers,
        **shared,
        **constants,
        ROWS=rows,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


def tile(inner: int, middle: int, outer: int) -> tuple[int, int, int]:
    """Sizes of a tile along three dimensions, the one that lies dense in memory first."""
    block_inner = min(next_power_of_two(inner), TILE_INNER)
    block_middle = min(next_power_of_two(middle), TILE // block_inner)
    block_outer = min(next_power_of_two(outer), TILE // (block_inner * block_middle))
    return min(next_power_of_two(inner), TILE // (block_middle * block_outer)), block_middle, block_outer


def _warps(elements: int) -> int:
    return max(elements // 256, 1)


def _fake(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    pads: Sequence[int],
    flip_filter: bool,
    gain: float,
    *epilogue: Any,
) -> Tensor:
    size = _resampling(up, down, pads, flip_filter, gain).size(f, *x.shape[2:])
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *options = inputs
    ctx.save_for_backward(f)
    ctx.adjoint = _resampling(*options).adjoint(x, f, output)
    ctx.layout = memory_format(output)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    dx = upfirdn2d_op(dy.contiguous(memory_format=ctx.layout), f, *ctx.adjoint)
    return dx, *[None] * 6


def _save_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f = inputs[:2]
    ctx.resampling, ctx.activation = _resampling(*inputs[2:7]), inputs[11:]
    ctx.save_for_backward(x, f, *inputs[7:11])
    ctx.adjoint = ctx.resampling.adjoint(x, f, output)
    ctx.layout = memory_format(output)


def _differentiate_finish(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, f, *tensors = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[7:11])
    z = upfirdn2d_op(x, f, *ctx.resampling)
    dz, *gradients = finish_backward(dy.contiguous(memory_format=ctx.layout), z, *tensors, *ctx.activation, needs)
    dx = upfirdn2d_op(dz, f, *ctx.adjoint) if ctx.needs_input_grad[0] else None
    wanted = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return dx, *[None] * 6, *wanted, *[None] * 4


upfirdn2d_op.register_fake(_fake)
upfirdn2d_op.register_autograd(_differentiate, setup_context=_save)
upfirdn2d_finish_op.register_fake(_fake)
upfirdn2d_finish_op.register_autograd(_differentiate_finish, setup_context=_save_finish)
register("upfirdn2d", "triton", upfirdn2d)
register("upfirdn2d_finish", "triton", upfirdn2d_finish)
