"""upfirdn2d (formula in kernels/upfirdn2d.py) on Triton kernels, alone and with the epilogue of StyleGAN2's layers.

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

from smartfast.kernels.epilogue.triton import ACTIVATIONS, finish_backward
from smartfast.kernels.geometry import Pair, Quad, filter_size, memory_format
from smartfast.kernels.runtime import NAMESPACE, compute_dtype, launch, next_power_of_two
from smartfast.kernels.selection import register
from smartfast.kernels.upfirdn2d.kernels import direct_kernel, polyphase_kernel, slide_kernel

SMALL_FILTER = 4
"""Most taps per axis of a filter whose weights stay in registers; longer 1-D filters take one pass per axis."""
ALIGNMENT = 8
"""Channels of 128 bits in half precision. NHWC images with fewer (RGB) take the direct kernel."""
TILE = 1024
"""Elements of a tile: 8 per thread, 4 warps."""
DIRECT_REGISTERS, POLYPHASE_REGISTERS = 128, 96
"""Of a thread, where the compiler's own target makes it spill on some GPU (`python -m bench.compile_report`)."""
TILE_INNER = 64
"""Elements of a tile that lie side by side in memory, more only if there is nothing else to take."""
MOST_ROWS = 32
"""Steps of a program down its strip: long strips read fewer rows twice."""
PROGRAMS_WANTED = 512
"""Strips get shorter until a launch has about as many programs as an H100 holds at once, 4 on each of 132 units."""


class Epilogue(NamedTuple):
    """What `finish_tile` does to z; the default is nothing. Tensors as in `upfirdn2d_finish`."""

    demodulation: Tensor | None = None
    noise: Tensor | None = None
    bias: Tensor | None = None
    next_styles: Tensor | None = None
    act: str = "linear"
    alpha: float = 0.0
    gain: float = 1.0
    clamp: float | None = None


NO_EPILOGUE = Epilogue()


class _Filter(NamedTuple):
    """Taps [height, width], or [height] for both axes where separable; None = one tap of 1."""

    taps: Tensor | None
    height: int
    width: int
    separable: bool
    flip: bool
    gain: float


def upfirdn2d(x: Tensor, f: Tensor | None, up: Pair, down: Pair, pads: Quad, flip_filter: bool, gain: float) -> Tensor:
    """`kernels.upfirdn2d`. The result is stored as NHWC if x is, else as NCHW."""
    return upfirdn2d_op(x, f, up, down, pads, flip_filter, gain)


def upfirdn2d_finish(
    x: Tensor,
    f: Tensor | None,
    up: Pair,
    down: Pair,
    pads: Quad,
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
    """`upfirdn2d` and what follows it in a layer, in one pass over memory. Gradients of every order, none for f.

    Args:
        x, f, up, down, pads, flip_filter, gain: As `upfirdn2d`.
        demodulation, next_styles: [N, C] factors before and after the activation, or None.
        noise: [N, 1, H', W'] or [H', W'], or None.
        bias: [C] or None.
        act: linear, relu or lrelu.
        alpha, act_gain, clamp: See `kernels.bias_act`.

    Returns:
        [N, C, H', W'] in the dtype of x, stored as NHWC if x is, else as NCHW.

    Raises:
        ValueError: Another activation.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected linear, relu or lrelu")
    return upfirdn2d_finish_op(
        x, f, up, down, pads, flip_filter, gain, demodulation, noise, bias, next_styles, act, alpha, act_gain, clamp
    )


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
    return launch_upfirdn2d(x, f, up, down, pads, flip_filter, gain)


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
    epilogue = Epilogue(demodulation, noise, bias, next_styles, act, alpha, act_gain, clamp)
    return launch_upfirdn2d(x, f, up, down, pads, flip_filter, gain, epilogue)


def launch_upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    pads: Sequence[int],
    flip_filter: bool,
    gain: float,
    epilogue: Epilogue = NO_EPILOGUE,
) -> Tensor:
    """Allocate the result and launch its kernels: one, or two for a long 1-D filter, float32 between them."""
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = up, down, pads
    layout = memory_format(x)  # of the result too; an image between two passes may be too small to tell
    x = x.contiguous(memory_format=layout)
    if f is not None:
        f = f.contiguous()
    kw, kh = filter_size(f)
    if f is None or f.ndim == 2 or kw <= SMALL_FILTER:
        filter_ = _Filter(f, kh, kw, f is not None and f.ndim == 1, flip_filter, gain)
        return _launch(x, filter_, (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1), epilogue, x.dtype, layout)
    rows, columns = _Filter(f, 1, kw, False, flip_filter, 1.0), _Filter(f, kh, 1, False, flip_filter, gain)
    between = torch.float64 if x.dtype == torch.float64 else torch.float32
    z = _launch(x, rows, (up_x, 1), (down_x, 1), (x0, x1, 0, 0), NO_EPILOGUE, between, layout)
    return _launch(z, columns, (1, up_y), (1, down_y), (0, 0, y0, y1), epilogue, x.dtype, layout)


def _launch(
    x: Tensor,
    f: _Filter,
    up: Pair,
    down: Pair,
    pads: Quad,
    epilogue: Epilogue,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Tensor:
    """One kernel from x, dense in `layout`, to the result in `dtype`, stored alike."""
    y = _empty_output(x, f.width, f.height, up, down, pads, dtype, layout)
    (n, c, h, w), (oh, ow) = x.shape, y.shape[2:]
    demodulation, noise, bias, next_styles = (None if t is None else t.contiguous() for t in epilogue[:4])
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
        demodulation=demodulation,
        noise=noise,
        noise_stride=oh * ow if noise is not None and noise.ndim == 4 else 0,
        bias=bias,
        next_styles=next_styles,
        KH=f.height,
        KW=f.width,
        SEPARABLE=f.separable,
        FLIP=f.flip,
        FILTER_GAIN=f.gain,
        ALPHA=epilogue.alpha,
        GAIN=epilogue.gain,
        CLAMP=epilogue.clamp,
        ACT=epilogue.act,
        ALIGNMENT=ALIGNMENT if c % ALIGNMENT == 0 else 1,
        ACC=compute_dtype(x.dtype),
    )
    channels_last = layout == torch.channels_last
    if channels_last and c >= ALIGNMENT and max(f.height, f.width) <= SMALL_FILTER:
        if up == (1, 1) and down in ((1, 1), (2, 2)):
            _launch_strips(slide_kernel, shared, n, steps=oh, columns=ow, DOWN=down[0])
            return y
        if up == (2, 2) and down == (1, 1):
            # A pair of outputs begins at -1 or 0, see the kernel.
            steps, columns = (oh + 2 - pads[2] % 2) // 2, (ow + 1 + pads[0] % 2) // 2
            is_small = epilogue is NO_EPILOGUE and x.dtype.itemsize == 2
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


def _empty_output(
    x: Tensor,
    fw: int,
    fh: int,
    up: Sequence[int],
    down: Sequence[int],
    pads: Sequence[int],
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Tensor:
    n, c, h, w = x.shape
    oh = (h * up[1] + pads[2] + pads[3] - fh) // down[1] + 1
    ow = (w * up[0] + pads[0] + pads[1] - fw) // down[0] + 1
    return torch.empty((n, c, oh, ow), dtype=dtype, device=x.device, memory_format=layout)


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
    return _empty_output(x, *filter_size(f), up, down, pads, x.dtype, memory_format(x))


def _adjoint(x: Tensor, f: Tensor | None, y: Tensor, options: Sequence[Any]) -> tuple[Any, ...]:
    """Options of the op that carries gradients of y back to x."""
    up, down, (x0, _, y0, _), flip_filter, gain = options
    fw, fh = filter_size(f)
    x1 = x.shape[3] * up[0] - y.shape[3] * down[0] + x0 - up[0] + 1
    y1 = x.shape[2] * up[1] - y.shape[2] * down[1] + y0 - up[1] + 1
    return down, up, (fw - 1 - x0, x1, fh - 1 - y0, y1), not flip_filter, gain


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *options = inputs
    ctx.save_for_backward(f)
    ctx.adjoint = _adjoint(x, f, output, options)
    ctx.layout = memory_format(output)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    dx = upfirdn2d_op(dy.contiguous(memory_format=ctx.layout), f, *ctx.adjoint)
    return dx, None, None, None, None, None, None


def _save_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f = inputs[:2]
    ctx.options, ctx.activation = inputs[2:7], inputs[11:]
    ctx.save_for_backward(x, f, *inputs[7:11])
    ctx.adjoint = _adjoint(x, f, output, ctx.options)
    ctx.layout = memory_format(output)


def _differentiate_finish(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, f, *tensors = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[7:11])
    z = upfirdn2d_op(x, f, *ctx.options)
    dz, *gradients = finish_backward(dy.contiguous(memory_format=ctx.layout), z, *tensors, *ctx.activation, needs)
    dx = upfirdn2d_op(dz, f, *ctx.adjoint) if ctx.needs_input_grad[0] else None
    wanted = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return dx, *[None] * 6, *wanted, *[None] * 4


upfirdn2d_op.register_fake(_fake)
upfirdn2d_op.register_autograd(_differentiate, setup_context=_save)
upfirdn2d_finish_op.register_fake(_fake)
upfirdn2d_finish_op.register_autograd(_differentiate_finish, setup_context=_save_finish)
register("upfirdn2d", "triton", upfirdn2d)
