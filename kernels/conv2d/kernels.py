"""Kernels of `conv_gemm`: the convolution as an implicit matrix product, and the gradient of its epilogue.

Rows of the product are pixels of one sample, columns are output channels, the sum runs over taps and channels. The
left factor is never stored: its tiles are read from the NHWC image at each tap's offset. Weights are read as
[O, kh, kw, I], sums are float32.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..epilogue.kernels import finish_tile
from ..epilogue.op import Epilogue
from ..epilogue.triton import epilogue_arguments, epilogue_tensors
from ..forms import DEFAULT, are_asked_for, pick
from ..runtime import dense, launch, next_power_of_two

MANTISSA_BITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}
AMPERE, HOPPER, BLACKWELL, GEFORCE_BLACKWELL = (8, 0), (9, 0), (10, 0), (12, 0)
LARGE_TILE = tl.constexpr(128 * 256)
IEEE_REGISTERS = 168  # of a thread, so that 64 x 64 sums without tensor cores do not spill
STYLES_REGISTERS = 255  # where the tile is written twice; the compiler's own target makes some spill
ENOUGH_PROGRAMS = 128  # about one for each multiprocessor


class Tile(NamedTuple):
    """pixels x channels of the output that one program computes, taking `depth` channels of one tap at a time."""

    pixels: int
    channels: int
    depth: int
    num_warps: int
    num_stages: int


def choose_tile(
    n: int,
    num_pixels: int,
    c_in: int,
    c_out: int,
    dtype: torch.dtype,
    precision: str,
    capability: tuple[int, int],
) -> Tile:
    """Tile for n images of `num_pixels`, such that accumulators stay in registers and stages in shared memory.

    Half precision and tf32 read 128 bytes per row and step. IEEE float32 has no tensor core and wants small tiles.
    """
    if capability >= GEFORCE_BLACKWELL:  # has Ampere's tensor-core instructions and less shared memory
        capability = AMPERE
    rows, columns = max(next_power_of_two(num_pixels), 16), max(next_power_of_two(c_out), 16)
    bound = max(next_power_of_two(c_in), 16)
    if dtype == torch.float32 and precision == "ieee":
        return Tile(min(rows, 64), min(columns, 64), min(bound, 16), num_warps=4, num_stages=3)
    depth = min(bound, 32 if dtype == torch.float32 else 64)
    if num_pixels <= 64:  # a tile has rows of one sample only: narrow tiles give more programs
        return Tile(rows, min(columns, 64), depth, num_warps=4, num_stages=4)
    is_aligned = c_in * dtype.itemsize % 16 == 0  # otherwise loads are narrow and their addresses take registers
    wide_tiles = n * triton.cdiv(num_pixels, 128) * triton.cdiv(c_out, 256)
    if capability >= HOPPER and is_aligned and columns >= 256 and wide_tiles >= ENOUGH_PROGRAMS:
        return Tile(128, 256, depth, num_warps=8, num_stages=3 if capability < BLACKWELL else 4)
    # Only on sm_90 do four warps hold 128 x 128 accumulators and finish them without running out of registers.
    few_warps = columns <= 64 or (is_aligned and HOPPER <= capability < BLACKWELL)
    return Tile(128, min(columns, 128), depth, 4 if few_warps else 8, num_stages=3 if capability < HOPPER else 4)


def tile_forms(tile: Tile) -> dict[str, Tile]:
    """The tile and the smaller ones that may be faster, by name; each side is at least the 16 that a product needs."""
    smaller = {
        "half the pixels": tile._replace(pixels=tile.pixels // 2),
        "half the channels": tile._replace(channels=tile.channels // 2),
        "half the depth": tile._replace(depth=tile.depth // 2),
    }
    return {DEFAULT: tile} | {name: t for name, t in smaller.items() if min(t.pixels, t.channels, t.depth) >= 16}


@triton.jit
def _valid_taps(pixels, H: tl.constexpr, W: tl.constexpr, KERNEL: tl.constexpr):
    """Per pixel, one bit for each tap that lies inside the image; none for pixels behind its end."""
    valid = (pixels < H * W).to(tl.int32)
    if KERNEL == 3:
        h = pixels // W
        w = pixels % W
        row = (w > 0).to(tl.int32) + 2 + 4 * (w < W - 1).to(tl.int32)
        valid = valid * (row * (h > 0).to(tl.int32) + 8 * row + 64 * row * (h < H - 1).to(tl.int32))
    return valid


@triton.jit
def _finish_and_store(
    z, y, level, n, pixels, first_channel, num_pixels, num_channels, demodulation, noise, noise_stride, bias,
    next_styles, ALPHA: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Finish a tile of one sample and write it to y [N, num_pixels, num_channels], and to level without next_styles.

    A large tile goes in two halves, which need half the registers; one that is written twice counts double.
    """
    COPIES: tl.constexpr = 1 if level is None else 2
    PARTS: tl.constexpr = 2 if COPIES * z.shape[0] * z.shape[1] >= LARGE_TILE else 1
    WIDTH: tl.constexpr = z.shape[1] // PARTS
    part, other_part = z, z
    if PARTS == 2:
        part, other_part = tl.split(tl.permute(tl.reshape(z, (z.shape[0], 2, WIDTH)), (0, 2, 1)))
    channels = first_channel + tl.arange(0, WIDTH)
    pixel_mask = pixels < num_pixels
    for _ in tl.static_range(PARTS):
        channel_mask = channels < num_channels
        part = finish_tile(
            part, n, pixels, pixel_mask, channels, channel_mask, num_channels, demodulation, noise, noise_stride, bias,
            None, ALPHA, GAIN, CLAMP, ACT,
        )  # fmt: skip
        offsets = n * num_pixels * num_channels + pixels[:, None] * num_channels + channels[None, :]
        mask = pixel_mask[:, None] & channel_mask[None, :]
        if level is not None:
            tl.store(level + offsets, part.to(y.dtype.element_ty), mask=mask)
        if next_styles is not None:
            s = tl.load(next_styles + n * num_channels + channels, mask=channel_mask, other=0.0)
            part = part * s.to(tl.float32)[None, :]
        tl.store(y + offsets, part.to(y.dtype.element_ty), mask=mask)
        part, channels = other_part, channels + WIDTH


@triton.jit
def conv_gemm_kernel(
    x,
    weight,
    y,
    level,
    demodulation,
    noise,
    noise_stride,
    bias,
    next_styles,
    H: tl.constexpr,
    W: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    KERNEL: tl.constexpr,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of y [N, H, W, C_OUT] from x [N, H, W, C_IN] and weight [C_OUT, KERNEL, KERNEL, C_IN].

    Programs that share pixels follow one another: a strip of the image is fetched once from memory and read by all
    of them from the L2 cache, where the weights stay throughout. Shapes are constexpr: a third fewer instructions.
    """
    TILES_C: tl.constexpr = (C_OUT + BLOCK_C - 1) // BLOCK_C
    TILES_P: tl.constexpr = (H * W + BLOCK_P - 1) // BLOCK_P
    STEPS: tl.constexpr = (C_IN + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    n = (pid // (TILES_C * TILES_P)).to(tl.int64)
    pixels = pid // TILES_C % TILES_P * BLOCK_P + tl.arange(0, BLOCK_P)
    first_channel = pid % TILES_C * BLOCK_C
    channels = first_channel + tl.arange(0, BLOCK_C)
    valid = _valid_taps(pixels, H, W, KERNEL)

    k = tl.arange(0, BLOCK_K)
    x_tile = x + n * (H * W * C_IN) + pixels[:, None] * C_IN + k[None, :]
    weight_tile = weight + channels[None, :] * (KERNEL * KERNEL * C_IN) + k[:, None]
    z = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(0, KERNEL * KERNEL * STEPS):
        tap = step // STEPS
        first = step % STEPS * BLOCK_K
        shift = (tap // KERNEL - KERNEL // 2) * W + tap % KERNEL - KERNEL // 2
        x_mask = ((valid >> tap) & 1)[:, None] != 0
        weight_mask = (channels < C_OUT)[None, :]
        if C_IN % BLOCK_K != 0:
            x_mask = x_mask & (first + k < C_IN)[None, :]
            weight_mask = weight_mask & (first + k < C_IN)[:, None]
        a = tl.load(x_tile + (shift * C_IN + first), mask=x_mask, other=0.0)
        b = tl.load(weight_tile + (tap * C_IN + first), mask=weight_mask, other=0.0)
        z = tl.dot(a, b, z, input_precision=PRECISION)

    _finish_and_store(
        z, y, level, n, pixels, first_channel, H * W, C_OUT, demodulation, noise, noise_stride, bias, next_styles,
        ALPHA, GAIN, CLAMP, ACT,
    )  # fmt: skip


@triton.jit
def finish_gradient_kernel(
    dy,
    level,
    dz,
    demodulation,
    noise,
    noise_stride,
    bias,
    next_styles,
    d_demodulation,
    d_noise,
    d_bias,
    d_next_styles,
    num_pixels,
    num_channels,
    SLOPE: tl.constexpr,
    INVERSE_SLOPE: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient for z of one sample's BLOCK_P pixels, all channels, and these pixels' parts of the sums.

    d_demodulation, d_bias and d_next_styles are [N, blocks of pixels, num_channels]; the first lacks the division by d.
    """
    blocks = tl.cdiv(num_pixels, BLOCK_P)
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    pixels = block * BLOCK_P + tl.arange(0, BLOCK_P)
    pixel_mask = pixels < num_pixels
    part = tl.program_id(0).to(tl.int64) * num_channels
    noise_sum = tl.zeros((BLOCK_P,), tl.float32)
    for first in range(0, num_channels, BLOCK_C):
        channels = first + tl.arange(0, BLOCK_C)
        channel_mask = channels < num_channels
        mask = pixel_mask[:, None] & channel_mask[None, :]
        offsets = n * num_pixels * num_channels + pixels[:, None] * num_channels + channels[None, :]
        value = tl.load(level + offsets, mask=mask, other=0.0).to(tl.float32)
        dv = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32)
        if next_styles is not None:
            tl.store(d_next_styles + part + channels, tl.sum(dv * value, axis=0), mask=channel_mask)
            s = tl.load(next_styles + n * num_channels + channels, mask=channel_mask, other=0.0)
            dv = dv * s.to(tl.float32)[None, :]
        dv = dv * tl.where(value > 0, GAIN, GAIN * SLOPE)
        if CLAMP is not None:
            dv = tl.where(tl.abs(value) >= CLAMP, 0.0, dv)  # a NaN passes, as in the epilogue
        noise_sum += tl.sum(dv, axis=1)
        if bias is not None:
            tl.store(d_bias + part + channels, tl.sum(dv, axis=0), mask=channel_mask)
        if demodulation is not None:
            scaled = tl.where(value > 0, value, value * INVERSE_SLOPE) * (1.0 / GAIN)
            if noise is not None:
                addend = tl.load(noise + n * noise_stride + pixels, mask=pixel_mask, other=0.0)
                scaled -= addend.to(tl.float32)[:, None]
            if bias is not None:
                scaled -= tl.load(bias + channels, mask=channel_mask, other=0.0).to(tl.float32)[None, :]
            tl.store(d_demodulation + part + channels, tl.sum(dv * scaled, axis=0), mask=channel_mask)
            d = tl.load(demodulation + n * num_channels + channels, mask=channel_mask, other=0.0)
            dv = dv * d.to(tl.float32)[None, :]
        tl.store(dz + offsets, dv.to(dz.dtype.element_ty), mask=mask)
    if noise is not None:
        tl.store(d_noise + n * num_pixels + pixels, noise_sum, mask=pixel_mask)


def launch_conv_gemm(
    x: Tensor,
    weight: Tensor,
    epilogue: Epilogue,
    precision: str,
    keep_level: bool = False,
    capability: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the kernel.

    The weight is copied to [O, kh, kw, I] unless it is stored so (channels_last): its size once read, once written,
    9 MiB for 512 x 512 x 3 x 3 in half precision.

    Args:
        x, weight, epilogue, precision: As `conv_gemm`.
        keep_level: Whether the tile also writes the result without next_styles.
        capability: Of the GPU that the tile is for; None = of x's, sm_90 where x is on none.

    Returns:
        y and, if asked for, y without next_styles, as NHWC in channels_last form.
    """
    n, c_in, height, width = x.shape
    c_out, _, kernel, _ = weight.shape
    if capability is None:
        capability = torch.cuda.get_device_capability(x.device) if x.is_cuda else HOPPER
    tile = choose_tile(n, height * width, c_in, c_out, x.dtype, precision, capability)
    if are_asked_for():
        tile = pick(f"conv_gemm tile {tuple(x.shape)} {c_out} {kernel} {x.dtype} {precision}", tile_forms(tile))
    y = torch.empty((n, c_out, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    level = torch.empty_like(y) if keep_level else None
    tiles = triton.cdiv(height * width, tile.pixels) * triton.cdiv(c_out, tile.channels)
    is_ieee = precision == "ieee" and x.dtype == torch.float32
    launch(
        conv_gemm_kernel,
        (n * tiles,),
        written=("y",) if level is None else ("y", "level"),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        max_registers=IEEE_REGISTERS if is_ieee else STYLES_REGISTERS if epilogue.next_styles is not None else None,
        x=dense(x, channels_last=True),
        weight=dense(weight, channels_last=True),
        y=y,
        level=level,
        **epilogue_arguments(_with_rounded_clamp(epilogue, x.dtype)),
        H=height,
        W=width,
        C_IN=c_in,
        C_OUT=c_out,
        KERNEL=kernel,
        PRECISION=precision,
        BLOCK_P=tile.pixels,
        BLOCK_C=tile.channels,
        BLOCK_K=tile.depth,
    )
    return y, level


def launch_finish_gradient(
    dy: Tensor, level: Tensor, epilogue: Epilogue
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the epilogue from its output before next_styles.

    Returns:
        Those for z (NHWC, dtype of level), demodulation, noise, bias and next_styles (float32); None for what is None.
    """
    n, channels, height, width = level.shape
    num_pixels = height * width
    block = min(32, max(next_power_of_two(num_pixels), 16))
    parts = (n, triton.cdiv(num_pixels, block), channels)
    shapes = dict(demodulation=parts, noise=(n, 1, height, width), bias=parts, next_styles=parts)
    sums: dict[str, Any] = {
        f"d_{name}": None if t is None else torch.empty(shape, dtype=torch.float32, device=level.device)
        for (name, shape), t in zip(shapes.items(), epilogue.tensors, strict=True)
    }
    level = dense(level, channels_last=True)
    dz = torch.empty_like(level)
    act, alpha, gain, clamp = _with_rounded_clamp(epilogue, level.dtype).activation
    slope, inverse_slope = slopes(act, alpha)
    launch(
        finish_gradient_kernel,
        (n * parts[1],),
        written=("dz", *sums),
        dy=dense(dy, channels_last=True),
        level=level,
        dz=dz,
        **epilogue_tensors(epilogue),
        **sums,
        num_pixels=num_pixels,
        num_channels=channels,
        SLOPE=slope,
        INVERSE_SLOPE=inverse_slope,
        GAIN=gain,
        CLAMP=clamp,
        BLOCK_P=block,
        BLOCK_C=min(64, max(next_power_of_two(channels), 16)),
    )
    d_demodulation, d_noise, d_bias, d_next_styles = sums.values()
    if epilogue.demodulation is not None:
        d_demodulation = d_demodulation.sum(dim=1) / epilogue.demodulation
    d_bias = None if d_bias is None else d_bias.sum(dim=(0, 1))
    return dz, d_demodulation, d_noise, d_bias, None if d_next_styles is None else d_next_styles.sum(dim=1)


def _with_rounded_clamp(epilogue: Epilogue, dtype: torch.dtype) -> Epilogue:
    activation = epilogue.activation
    return epilogue._replace(activation=activation._replace(clamp=rounded_clamp(activation.clamp, dtype)))


def slopes(act: str, alpha: float) -> tuple[float, float]:
    """The activation's slope below zero, and its inverse, or 0 where there is none."""
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}[act]
    return slope, 1 / slope if slope else 0.0


def rounded_clamp(clamp: float | None, dtype: torch.dtype) -> float | None:
    """The clamp as `dtype` stores it, so that a stored y shows exactly where it was clamped."""
    if clamp is None:
        return None
    mantissa, exponent = math.frexp(clamp)
    bits = MANTISSA_BITS[dtype]
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)
