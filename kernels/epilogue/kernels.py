"""The kernels behind `epilogue_op.finish`: one forward, one backward with partial sums. Launches only, no derivatives.

A program holds a tile [P, C] of one sample's pixels and channels, in NHWC or NCHW; the backward kernel goes through a
strip of such tiles, to write fewer partial sums.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from smartfast.kernels.epilogue.op import activate, finish_tile
from smartfast.kernels.runtime import compute_dtype, dense, is_channels_last, launch, next_power_of_two

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


@triton.jit
def _tile_offsets(
    n,
    first_pixel,
    first_channel,
    num_pixels,
    NUM_CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILE_PIXELS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """Offsets [P, C] of a tile's elements; only where the tile begins can be beyond 32 bits."""
    pixels = tl.arange(0, TILE_PIXELS)[:, None]
    channels = tl.arange(0, TILE_CHANNELS)[None, :]
    sample = n.to(tl.int64) * num_pixels * NUM_CHANNELS
    if CHANNELS_LAST:
        offsets = sample + first_pixel.to(tl.int64) * NUM_CHANNELS + first_channel + (pixels * NUM_CHANNELS + channels)
    else:
        offsets = sample + first_channel.to(tl.int64) * num_pixels + first_pixel + (channels * num_pixels + pixels)
    return offsets


@triton.jit
def _finish_kernel(
    z,
    y,
    demodulation,
    noise,
    bias,
    next_styles,
    num_pixels,
    noise_stride,
    NUM_CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILE_PIXELS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
):
    """grid (samples * tiles of pixels, tiles of channels)."""
    tiles = tl.cdiv(num_pixels, TILE_PIXELS)
    n = tl.program_id(0) // tiles
    first_pixel = (tl.program_id(0) % tiles) * TILE_PIXELS
    first_channel = tl.program_id(1) * TILE_CHANNELS
    pixels = first_pixel + tl.arange(0, TILE_PIXELS)
    channels = first_channel + tl.arange(0, TILE_CHANNELS)
    pixel_mask, channel_mask = pixels < num_pixels, channels < NUM_CHANNELS
    mask = pixel_mask[:, None] & channel_mask[None, :]
    offsets = _tile_offsets(
        n, first_pixel, first_channel, num_pixels, NUM_CHANNELS, CHANNELS_LAST, TILE_PIXELS, TILE_CHANNELS
    )
    tile = finish_tile(
        tl.load(z + offsets, mask=mask, other=0.0).to(ACC),
        n,
        pixels,
        pixel_mask,
        channels,
        channel_mask,
        NUM_CHANNELS,
        demodulation,
        noise,
        noise_stride,
        bias,
        next_styles,
        ALPHA,
        GAIN,
        CLAMP,
        ACT,
    )
    tl.store(y + offsets, tile.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _times_slope(
    gradient, v, level, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr
):  # fmt: skip
    """gradient times the derivative of `activate` at v, where it gives `level`."""
    gradient = gradient * GAIN
    if ACT == "relu":
        gradient = tl.where(v > 0, gradient, 0.0)
    if ACT == "lrelu":
        gradient = tl.where(v > 0, gradient, gradient * ALPHA)
    if CLAMP is not None:
        gradient = tl.where(tl.abs(level) >= CLAMP, 0.0, gradient)
    return gradient


@triton.jit
def _store_sum(sums, offsets, tile, mask):
    """The tile [P, C] summed over its pixels; sums is None = not wanted."""
    if sums is not None:
        tl.store(sums + offsets, tl.sum(tile, 0), mask=mask)


@triton.jit
def _finish_backward_kernel(
    g, z, dz, demodulation, noise, bias, next_styles, d_demodulation, d_noise, d_bias, d_next_styles,
    num_pixels, noise_stride,
    NUM_CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, TILE_PIXELS: tl.constexpr, TILE_CHANNELS: tl.constexpr,
    STRIP: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """grid (samples * strips of STRIP tiles of pixels, tiles of channels).

    Partial sums, or None: d_demodulation, d_bias, d_next_styles [samples, strips, channels]; d_noise [samples, tiles of
    channels, pixels].
    """
    strips = tl.cdiv(num_pixels, TILE_PIXELS * STRIP)
    n = tl.program_id(0) // strips
    first_channel = tl.program_id(1) * TILE_CHANNELS
    channels = first_channel + tl.arange(0, TILE_CHANNELS)
    channel_mask = channels < NUM_CHANNELS
    if demodulation is not None:
        d = tl.load(demodulation + n * NUM_CHANNELS + channels, mask=channel_mask, other=0.0).to(ACC)[None, :]
    if bias is not None:
        b = tl.load(bias + channels, mask=channel_mask, other=0.0).to(ACC)[None, :]
    if next_styles is not None:
        s = tl.load(next_styles + n * NUM_CHANNELS + channels, mask=channel_mask, other=0.0).to(ACC)[None, :]
    demodulation_sum = tl.zeros((TILE_PIXELS, TILE_CHANNELS), ACC)
    bias_sum = tl.zeros((TILE_PIXELS, TILE_CHANNELS), ACC)
    styles_sum = tl.zeros((TILE_PIXELS, TILE_CHANNELS), ACC)
    for i in range(STRIP):
        first_pixel = ((tl.program_id(0) % strips) * STRIP + i) * TILE_PIXELS
        pixels = first_pixel + tl.arange(0, TILE_PIXELS)
        pixel_mask = pixels < num_pixels
        mask = pixel_mask[:, None] & channel_mask[None, :]
        offsets = _tile_offsets(
            n, first_pixel, first_channel, num_pixels, NUM_CHANNELS, CHANNELS_LAST, TILE_PIXELS, TILE_CHANNELS
        )
        tile = tl.load(z + offsets, mask=mask, other=0.0).to(ACC)
        gradient = tl.load(g + offsets, mask=mask, other=0.0).to(ACC)
        v = tile
        if demodulation is not None:
            v = v * d
        if noise is not None:
            v = v + tl.load(noise + n * noise_stride + pixels, mask=pixel_mask, other=0.0).to(ACC)[:, None]
        if bias is not None:
            v = v + b
        level = activate(v, ALPHA, GAIN, CLAMP, ACT)
        if d_next_styles is not None:
            styles_sum += gradient * level
        if next_styles is not None:
            gradient = gradient * s
        gradient = _times_slope(gradient, v, level, ALPHA, GAIN, CLAMP, ACT)
        if d_demodulation is not None:
            demodulation_sum += gradient * tile
        if d_bias is not None:
            bias_sum += gradient
        if d_noise is not None:
            row = (n * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * num_pixels
            tl.store(d_noise + row + pixels, tl.sum(gradient, 1), mask=pixel_mask)
        if demodulation is not None:
            gradient = gradient * d
        tl.store(dz + offsets, gradient.to(dz.dtype.element_ty), mask=mask)
    sums = tl.program_id(0).to(tl.int64) * NUM_CHANNELS + channels
    _store_sum(d_demodulation, sums, demodulation_sum, channel_mask)
    _store_sum(d_bias, sums, bias_sum, channel_mask)
    _store_sum(d_next_styles, sums, styles_sum, channel_mask)


def _kernel_arguments(
    z: Tensor,
    demodulation: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_styles: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> dict[str, Any]:
    """What both kernels take, for a dense z."""
    channels, num_pixels = z.shape[1], z.shape[2] * z.shape[3]
    if is_channels_last(z):
        tile_channels = min(TILE_CHANNELS, next_power_of_two(channels))
        tile_pixels = min(TILE // tile_channels, next_power_of_two(num_pixels))
    else:
        tile_pixels = min(TILE, next_power_of_two(num_pixels))
        tile_channels = min(TILE // tile_pixels, next_power_of_two(channels))
    return dict(
        demodulation=None if demodulation is None else demodulation.contiguous(),
        noise=None if noise is None else noise.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        next_styles=None if next_styles is None else next_styles.contiguous(),
        num_pixels=num_pixels,
        noise_stride=num_pixels if noise is not None and noise.ndim == 4 else 0,
        NUM_CHANNELS=channels,
        CHANNELS_LAST=is_channels_last(z),
        TILE_PIXELS=tile_pixels,
        TILE_CHANNELS=tile_channels,
        ALPHA=alpha,
        GAIN=gain,
        CLAMP=clamp,
        ACT=act,
        ACC=compute_dtype(z.dtype),
    )


def dense_as_stored(z: Tensor) -> Tensor:
    """z in the layout that the kernels give their result: NHWC if it is stored so, else NCHW."""
    return dense(z, channels_last=is_channels_last(z))


def launch_finish(
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
    """Run the forward kernel. Arguments and result as `epilogue_op.finish`."""
    z = dense_as_stored(z)
    y = torch.empty_like(z)
    arguments = _kernel_arguments(z, demodulation, noise, bias, next_styles, act, alpha, gain, clamp)
    tiles = triton.cdiv(arguments["num_pixels"], arguments["TILE_PIXELS"])
    grid = (len(z) * tiles, triton.cdiv(z.shape[1], arguments["TILE_CHANNELS"]))
    launch(_finish_kernel, grid, written=("y",), num_warps=4, z=z, y=y, **arguments)
    return y


def launch_finish_backward(
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
) -> tuple[Tensor, list[Tensor | None]]:
    """Run the backward kernel. Arguments as `epilogue_op.finish_backward`.

    Returns:
        (dz, partial sums of the other four gradients or None). Those of demodulation, bias and next_styles are
        [N, strips, C], those of noise [N, tiles of channels, H * W], in float32 (float64 if z is).
    """
    z = dense_as_stored(z)
    g = dense(g, channels_last=is_channels_last(z))
    arguments = _kernel_arguments(z, demodulation, noise, bias, next_styles, act, alpha, gain, clamp)
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
    written = ("dz", *(name for name, sums in partial.items() if sums is not None))
    launch(
        _finish_backward_kernel,
        (len(z) * strips, channel_tiles),
        written=written,
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
