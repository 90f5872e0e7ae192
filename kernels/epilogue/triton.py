"""The epilogue on Triton kernels: what follows a convolution that a library computed.

    v = d[n, c] * z + noise[n, h, w] + bias[c],     y = s[n, c] * clamp(gain * act(v))

One kernel does linear, relu and lrelu; after other activations come bias_act's kernel and the styles. z is saved, not
y. One kernel computes y; one computes dz and, for the other gradients that are wanted, partial sums per program that
PyTorch adds up: no atomics, the same bits every time. Two registered ops; kernels that fuse this epilogue build their
own derivative from the second:

    smartfast::finish(z, demodulation?, noise?, bias?, next_styles?, act, alpha, gain, clamp?) -> y
    smartfast::finish_backward(g, z, demodulation?, noise?, bias?, next_styles?, act, alpha, gain, clamp?, bool[] needs)
        -> (dz, d_demodulation, d_noise, d_bias, d_next_styles)

g is the gradient of y, in any layout. needs has four booleans, one for each of the last four results, which are empty
tensors [0] where it says False. dz has the dtype and layout of z; the others have the shape and dtype of their tensor.
It is differentiable itself.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..bias_act.aten import activate
from ..bias_act.op import Activation
from ..bias_act.triton import activation_constants, bias_act
from ..geometry import wide
from ..runtime import NAMESPACE, compute_dtype, dense, is_channels_last, launch, next_power_of_two
from ..selection import register
from .kernels import finish_backward_kernel, finish_kernel
from .op import Epilogue

FUSED = ("linear", "relu", "lrelu")
"""Activations that a tile's epilogue computes."""
TILE = 1024
"""Elements of a tile: 8 per thread, 128 bits of half precision."""
TILE_CHANNELS = 64
"""Most channels of a tile in NHWC."""
LONGEST_STRIP = 16
"""Most tiles that a program of the backward kernel goes through; longer strips write fewer partial sums."""
NCHW_REGISTERS = 128
"""Of a thread of the backward kernel, where the compiler's own target makes it spill a few."""
PROGRAMS_WANTED = 2048
"""Strips are shorter where the backward kernel would have fewer programs, which is too few to fill a large GPU."""


def finish(z: Tensor, epilogue: Epilogue) -> Tensor:
    """`kernels.finish`."""
    first, rest = split(epilogue)
    return finish_rest(finish_op(z, *first.tensors, *first.activation), rest)


def scale(x: Tensor, styles: Tensor) -> Tensor:
    """x [N, C, H, W] * styles [N, C], with both gradients from one pass."""
    return finish_op(x, styles, None, None, None, *Activation())


def split(epilogue: Epilogue) -> tuple[Epilogue, Epilogue | None]:
    """What a kernel's tile does, and what is left for `finish_rest` after an activation that a tile does not do."""
    if epilogue.activation.act in FUSED:
        return epilogue, None
    rest = epilogue._replace(demodulation=None, noise=None)
    return Epilogue(epilogue.demodulation, epilogue.noise), rest


def finish_rest(y: Tensor, rest: Epilogue | None) -> Tensor:
    """The second part of `split`."""
    if rest is None:
        return y
    y = bias_act(y, rest.bias, 1, rest.activation)
    return y if rest.next_styles is None else scale(y, rest.next_styles)


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
    return launch_finish(z, Epilogue(demodulation, noise, bias, next_styles, Activation(act, alpha, gain, clamp)))


@finish_op.register_fake
def _finish_fake(z: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(_dense_as_stored(z))


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
    epilogue = Epilogue(demodulation, noise, bias, next_styles, Activation(act, alpha, gain, clamp))
    dz, partial = launch_finish_backward(g, z, epilogue, needs)
    over_samples = (False, noise is not None and noise.ndim == 2, True, False)
    sums = [
        z.new_empty(0) if t is None or p is None else p.sum((0, 1) if over else 1).reshape(t.shape).to(t.dtype)
        for t, p, over in zip(epilogue.tensors, partial, over_samples, strict=True)
    ]
    return dz, sums[0], sums[1], sums[2], sums[3]


@finish_backward.register_fake
def _finish_backward_fake(g: Tensor, z: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    tensors, needs = rest[:4], rest[-1]
    sums = [
        t.new_empty(t.shape) if need and t is not None else z.new_empty(0)
        for t, need in zip(tensors, needs, strict=True)
    ]
    return torch.empty_like(_dense_as_stored(z)), *sums


def _dense_as_stored(z: Tensor) -> Tensor:
    """z in the layout that the kernels give their result: NHWC if it is stored so, else NCHW."""
    return dense(z, channels_last=is_channels_last(z))


def launch_finish(z: Tensor, epilogue: Epilogue) -> Tensor:
    """Run the forward kernel. Arguments and result as `finish`."""
    z = _dense_as_stored(z)
    y = torch.empty_like(z)
    arguments = _tile_arguments(z) | epilogue_arguments(epilogue)
    tiles = triton.cdiv(arguments["num_pixels"], arguments["TILE_PIXELS"])
    grid = (len(z) * tiles, triton.cdiv(z.shape[1], arguments["TILE_CHANNELS"]))
    launch(finish_kernel, grid, written=("y",), num_warps=4, z=z, y=y, **arguments)
    return y


def launch_finish_backward(
    g: Tensor, z: Tensor, epilogue: Epilogue, needs: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Run the backward kernel. Arguments as `finish_backward`.

    Returns:
        (dz, partial sums of the other four gradients or None). Those of demodulation, bias and next_styles are
        [N, strips, C], those of noise [N, tiles of channels, H * W], in float32 (float64 if z is).
    """
    z = _dense_as_stored(z)
    g = dense(g, channels_last=is_channels_last(z))
    arguments = _tile_arguments(z) | epilogue_arguments(epilogue)
    num_pixels, tile_pixels = arguments["num_pixels"], arguments["TILE_PIXELS"]
    channel_tiles = triton.cdiv(z.shape[1], arguments["TILE_CHANNELS"])
    strip = LONGEST_STRIP
    while strip > 1 and len(z) * channel_tiles * triton.cdiv(num_pixels, tile_pixels * strip) < PROGRAMS_WANTED:
        strip //= 2
    strips = triton.cdiv(num_pixels, tile_pixels * strip)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    per_channel, per_pixel = (len(z), strips, z.shape[1]), (len(z), channel_tiles, num_pixels)
    shapes = dict(d_demodulation=per_channel, d_noise=per_pixel, d_bias=per_channel, d_next_styles=per_channel)
    partial: dict[str, Any] = {
        name: torch.empty(shape, dtype=dtype, device=z.device) if need else None
        for (name, shape), need in zip(shapes.items(), needs, strict=True)
    }
    dz = torch.empty_like(z)
    launch(
        finish_backward_kernel,
        (len(z) * strips, channel_tiles),
        written=("dz", *(name for name, sums in partial.items() if sums is not None)),
        num_warps=4,
        max_registers=None if arguments["CHANNELS_LAST"] else NCHW_REGISTERS,
        g=g,
        z=z,
        dz=dz,
        STRIP=strip,
        **partial,
        **arguments,
    )
    return dz, list(partial.values())


def epilogue_arguments(epilogue: Epilogue) -> dict[str, Any]:
    """What a kernel that ends in `finish_tile` takes for it."""
    return epilogue_tensors(epilogue) | activation_constants(epilogue.activation)


def epilogue_tensors(epilogue: Epilogue) -> dict[str, Any]:
    """The tensors of an epilogue, for a kernel."""
    names, noise = Epilogue._fields[:4], epilogue.noise
    tensors = {n: None if t is None else t.contiguous() for n, t in zip(names, epilogue.tensors, strict=True)}
    return tensors | dict(noise_stride=noise.shape[2] * noise.shape[3] if noise is not None and noise.ndim == 4 else 0)


def _tile_arguments(z: Tensor) -> dict[str, Any]:
    """What both kernels take for a dense z."""
    channels, num_pixels = z.shape[1], z.shape[2] * z.shape[3]
    if is_channels_last(z):
        tile_channels = min(TILE_CHANNELS, next_power_of_two(channels))
        tile_pixels = min(TILE // tile_channels, next_power_of_two(num_pixels))
    else:
        tile_pixels = min(TILE, next_power_of_two(num_pixels))
        tile_channels = min(TILE // tile_pixels, next_power_of_two(channels))
    return dict(
        num_pixels=num_pixels,
        NUM_CHANNELS=channels,
        CHANNELS_LAST=is_channels_last(z),
        TILE_PIXELS=tile_pixels,
        TILE_CHANNELS=tile_channels,
        ACC=compute_dtype(z.dtype),
    )


def _save_for_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.constants = inputs[5:]


def _derivative_of_finish(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[1:5])
    dz, *sums = finish_backward(g, *ctx.saved_tensors, *ctx.constants, needs)
    return dz, *(gradient if need else None for gradient, need in zip(sums, needs, strict=True)), None, None, None, None


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
    return [None if t is None else wide(t) for t in expanded]


def _activation(
    v: Tensor, act: str, alpha: float, gain: float, clamp: float | None
) -> tuple[Tensor, Callable[[Tensor | None], Tensor | None]]:
    """clamp(gain * act(v)), and the function that multiplies by its derivative (None stands for zero)."""
    below_zero = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}[act]
    level = activate(v, act, alpha) * gain
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


finish_op.register_autograd(_derivative_of_finish, setup_context=_save_for_finish)
finish_backward.register_autograd(_derivative_of_finish_backward, setup_context=_save_for_finish_backward)
register("finish", "triton", finish)
