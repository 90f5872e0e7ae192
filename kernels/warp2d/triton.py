"""The look-up of `kernels.warp2d` by Triton: nothing is padded, upsampled or stored between the image and the grid.

Bilinear interpolation between samples of an upsampled axis is one filter of k / 2 + 1 samples of the axis itself, so a
point of the grid is a sum over a small square of the mirrored image. The adjoint spreads the points over the same
squares, in integers: their sums do not depend on the order in which programs arrive, so it is deterministic.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..runtime import NAMESPACE, compute_dtype, launch, next_power_of_two
from ..selection import register
from .op import Grid

POINTS = 128
"""Points of the grid that a program looks up, of all channels."""
INTEGER_BITS, WEIGHT_BITS = 62, 3
"""Of a sum of the adjoint, and what weights of magnitude above 1 may add to it."""


@triton.jit
def _weight(tap, place, size, f, TAPS: tl.constexpr):
    """f[tap] where `place` of the upsampled axis exists, mirrored on both sides."""
    exists = (place >= 2 - 2 * size) & (place <= 4 * size - 3)
    return tl.load(f + tap, mask=exists & (tap >= 0) & (tap < TAPS), other=0.0)


@triton.jit
def _sample(at, step, size, f, TAPS: tl.constexpr):
    """Index, weight and existence of the step-th sample of an axis that is looked up at `at`, [points]."""
    at = tl.minimum(tl.maximum(at, -2.0 * size), 4.0 * size)
    first = tl.floor(at)
    fraction = at - first
    place = first.to(tl.int32)
    sample = ((place - TAPS // 2 + 1) >> 1) + step
    tap = place + TAPS // 2 - 1 - 2 * sample
    weight = 2 * (
        (1 - fraction) * _weight(tap, place, size, f, TAPS) + fraction * _weight(tap + 1, place + 1, size, f, TAPS)
    )
    index = size - 1 - tl.abs(size - 1 - tl.abs(sample))
    return index, weight, (sample > -size) & (sample < 2 * size - 1)


@triton.jit
def _places(lookup, n, point, columns):
    """Where the points of the grid lie in the upsampled image: column and row."""
    row, column = (point // columns).to(tl.float32), (point % columns).to(tl.float32)
    m = lookup + n * 6
    return (
        tl.load(m) * column + tl.load(m + 1) * row + tl.load(m + 2),
        tl.load(m + 3) * column + tl.load(m + 4) * row + tl.load(m + 5),
    )


@triton.jit
def lookup_kernel(
    x,
    lookup,
    f,
    z,
    x_n,
    x_c,
    x_h,
    x_w,
    height,
    width,
    columns,
    points,
    channels,
    tiles,
    TAPS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """z[n, c, p]: one of the `tiles` of an image's points, all its channels."""
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    point, c = tile * POINTS + tl.arange(0, POINTS), tl.arange(0, CHANNELS)
    u, v = _places(lookup, n, point, columns)
    base = x + n * x_n + c[None, :] * x_c
    inside = (point[:, None] < points) & (c[None, :] < channels)
    total = tl.zeros((POINTS, CHANNELS), ACC)
    for step_y in range(TAPS // 2 + 1):
        i, weight_y, has_y = _sample(v, step_y, height, f, TAPS)
        for step_x in range(TAPS // 2 + 1):
            j, weight_x, has_x = _sample(u, step_x, width, f, TAPS)
            at = (i.to(tl.int64) * x_h + j * x_w)[:, None]
            value = tl.load(base + at, mask=inside & (has_x & has_y)[:, None], other=0.0).to(ACC)
            total += value * (weight_y * weight_x).to(ACC)[:, None]
    tl.store(z + (n * channels + c[None, :]) * points + point[:, None], total, mask=inside)


@triton.jit
def spread_kernel(
    z,
    lookup,
    f,
    scale,
    sums,
    z_n,
    z_c,
    z_h,
    z_w,
    height,
    width,
    columns,
    points,
    channels,
    tiles,
    TAPS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """sums[n, c, i, j] += scale[n] * z[n, c, p] * weight, in integers."""
    n, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    point, c = tile * POINTS + tl.arange(0, POINTS), tl.arange(0, CHANNELS)
    u, v = _places(lookup, n, point, columns)
    inside = (point[:, None] < points) & (c[None, :] < channels)
    at = z + n * z_n + c[None, :] * z_c + ((point // columns).to(tl.int64) * z_h + (point % columns) * z_w)[:, None]
    value = tl.load(at, mask=inside, other=0.0).to(ACC) * tl.load(scale + n)
    base = sums + (n * channels + c[None, :]) * height * width
    for step_y in range(TAPS // 2 + 1):
        i, weight_y, has_y = _sample(v, step_y, height, f, TAPS)
        for step_x in range(TAPS // 2 + 1):
            j, weight_x, has_x = _sample(u, step_x, width, f, TAPS)
            share = tl.floor(value * (weight_y * weight_x).to(ACC)[:, None] + 0.5).to(tl.int64)
            tl.atomic_add(base + (i * width + j)[:, None], share, mask=inside & (has_x & has_y)[:, None])


def launch_lookup(x: Tensor, lookup: Tensor, f: Tensor) -> Tensor:
    """z [N, C, *Grid] of images, in float32 or float64."""
    grid = Grid.of(x, f)
    z = torch.empty((*x.shape[:2], *grid), dtype=wide_dtype(x), device=x.device)
    height, width = x.shape[2:]
    strides = dict(zip(("x_n", "x_c", "x_h", "x_w"), x.stride(), strict=True))
    arguments = _arguments(x, lookup, f, grid) | dict(height=height, width=width, **strides)
    programs = (x.shape[0] * arguments["tiles"],)
    launch(lookup_kernel, programs, x=x, z=z, written=("z",), **arguments)
    return z


def launch_spread(z: Tensor, lookup: Tensor, f: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """The adjoint: images [N, C, height, width] of grids z."""
    sums = torch.zeros((*z.shape[:2], height, width), dtype=torch.int64, device=z.device)
    # The largest power of two, for each image, with which no sum of all its points can overflow.
    bits = INTEGER_BITS - WEIGHT_BITS - math.ceil(math.log2(math.prod(z.shape[2:])))
    largest = z.detach().abs().amax(dim=[1, 2, 3]).to(wide_dtype(z))
    scale = torch.exp2(bits - largest.clamp_min(2.0**-64).log2().ceil())
    strides = dict(zip(("z_n", "z_c", "z_h", "z_w"), z.stride(), strict=True))
    arguments = _arguments(z, lookup, f, Grid(*z.shape[2:])) | dict(height=height, width=width, **strides)
    programs = (z.shape[0] * arguments["tiles"],)
    launch(spread_kernel, programs, z=z, scale=scale, sums=sums, written=("sums",), **arguments)
    return (sums.to(scale.dtype) / scale[:, None, None, None]).to(dtype)


def wide_dtype(x: Tensor) -> torch.dtype:
    """What the look-up computes and stores in."""
    return torch.promote_types(x.dtype, torch.float32)


def _arguments(tensor: Tensor, lookup: Tensor, f: Tensor, grid: Grid) -> dict[str, Any]:
    """What both launches have alike."""
    points = math.prod(grid)
    return dict(
        lookup=lookup.contiguous(),
        f=f.contiguous(),
        columns=grid.width,
        points=points,
        channels=tensor.shape[1],
        tiles=triton.cdiv(points, POINTS),
        TAPS=len(f),
        POINTS=POINTS,
        CHANNELS=next_power_of_two(tensor.shape[1]),
        ACC=compute_dtype(tensor.dtype),
    )


@torch.library.custom_op(f"{NAMESPACE}::warp2d", mutates_args=())
def warp2d_op(x: Tensor, lookup: Tensor, f: Tensor) -> Tensor:
    return launch_lookup(x, lookup, f)


@warp2d_op.register_fake
def _(x: Tensor, lookup: Tensor, f: Tensor) -> Tensor:
    return torch.empty((*x.shape[:2], *Grid.of(x, f)), dtype=wide_dtype(x), device=x.device)


@torch.library.custom_op(f"{NAMESPACE}::warp2d_adjoint", mutates_args=())
def warp2d_adjoint_op(z: Tensor, lookup: Tensor, f: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return launch_spread(z, lookup, f, height, width, dtype)


@warp2d_adjoint_op.register_fake
def _(z: Tensor, lookup: Tensor, f: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((*z.shape[:2], height, width), dtype=dtype, device=z.device)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, lookup, f, *_ = inputs
    ctx.save_for_backward(lookup, f)
    ctx.shape, ctx.dtype = x.shape, x.dtype


def _backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
    lookup, f = ctx.saved_tensors
    return warp2d_adjoint_op(dz, lookup, f, *ctx.shape[2:], ctx.dtype), None, None


def _adjoint_backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
    lookup, f = ctx.saved_tensors
    return warp2d_op(dx, lookup, f).to(ctx.dtype), *(None,) * 5


warp2d_op.register_autograd(_backward, setup_context=_context)
warp2d_adjoint_op.register_autograd(_adjoint_backward, setup_context=_context)


def warp2d(x: Tensor, lookup: Tensor, f: Tensor) -> Tensor:
    """z of op.py; `lookup` is that of `lookup_matrix`."""
    return warp2d_op(x, lookup, f)


register("warp2d", "triton", warp2d)
