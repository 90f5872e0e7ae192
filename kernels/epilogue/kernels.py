"""Kernels of the epilogue: `finish_tile` for every kernel that holds a tile of images, and two that work on memory.

A program holds a tile [P, C] of one sample's pixels and channels, in NHWC or NCHW; the backward kernel goes through a
strip of such tiles, to write fewer partial sums.
"""

import triton
import triton.language as tl

from ..bias_act.kernels import activate


@triton.jit
def finish_tile(
    z,
    n,
    pixels,
    pixel_mask,
    channels,
    channel_mask,
    num_channels,
    demodulation,
    noise,
    noise_stride,
    bias,
    next_styles,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
):
    """The epilogue of one sample's tile.

    Args:
        z: [P, C] in the dtype of computation.
        n: Sample.
        pixels, pixel_mask: [P] h * W + w, and which exist.
        channels, channel_mask: [C], and which exist.
        demodulation, next_styles: Pointers to [N, num_channels], or None.
        noise: Pointer to [H * W] per sample, `noise_stride` apart (0 = shared), or None.
        bias: Pointer to [num_channels], or None.
        ALPHA, GAIN, CLAMP, ACT: See `activate`.

    Returns:
        [P, C] in the dtype of z.
    """
    if demodulation is not None:
        d = tl.load(demodulation + n * num_channels + channels, mask=channel_mask, other=0.0)
        z = z * d.to(z.dtype)[None, :]
    if noise is not None:
        z = z + tl.load(noise + n.to(tl.int64) * noise_stride + pixels, mask=pixel_mask, other=0.0).to(z.dtype)[:, None]
    if bias is not None:
        z = z + tl.load(bias + channels, mask=channel_mask, other=0.0).to(z.dtype)[None, :]
    z = activate(z, ALPHA, GAIN, CLAMP, ACT)
    if next_styles is not None:
        s = tl.load(next_styles + n * num_channels + channels, mask=channel_mask, other=0.0)
        z = z * s.to(z.dtype)[None, :]
    return z


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
def finish_kernel(
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
        # A bare constant would be compared as float32.
        gradient = tl.where(tl.abs(level) >= tl.full(level.shape, CLAMP, level.dtype), 0.0, gradient)
    return gradient


@triton.jit
def _store_sum(sums, offsets, tile, mask):
    """The tile [P, C] summed over its pixels; sums is None = not wanted."""
    if sums is not None:
        tl.store(sums + offsets, tl.sum(tile, 0), mask=mask)


@triton.jit
def finish_backward_kernel(
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
            v = v + tl.load(noise + n.to(tl.int64) * noise_stride + pixels, mask=pixel_mask, other=0.0).to(ACC)[:, None]
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
