"""Philox in a kernel: functions for kernels that draw numbers where they use them, and a kernel that stores them."""

import math

import triton
import triton.language as tl
from triton.language.extra import libdevice

from ..selection import INTERPRETED

_FAST = tl.constexpr(not INTERPRETED)
_TWO_PI = tl.constexpr(2 * math.pi)


@triton.jit
def philox_block(seed, purpose, stream, block):
    """The four words (uint32) of each block of a stream; block = position // 4, integers [B]; stream is an int64."""
    low, high = stream.to(tl.uint32), (stream >> 32).to(tl.uint32)
    return tl.philox(seed, block.to(tl.uint32), low, high, tl.full((), purpose, tl.uint32))


@triton.jit
def _uniform(word):
    return (word >> 8).to(tl.int32).to(tl.float32) * 2.0**-24


@triton.jit
def _normal_pair(word_0, word_1):
    """Box-Muller with the GPU's approximate functions, within 6e-6 of the exact one.

    By the PTX manual's bounds: 7e-7 for sine and cosine times the largest radius, 5.8, is 4e-6. The logarithm's 2e-7
    are divided by the radius: below 2^-8 the first two terms of -log(1 - u) are nearer.
    """
    u, angle = _uniform(word_0), _uniform(word_1) * _TWO_PI
    log = libdevice.fast_logf(1.0 - u) if _FAST else tl.log(1.0 - u)
    radius = tl.sqrt(tl.where(u < 2.0**-8, 2.0 * u + u * u, -2.0 * log))
    cos = libdevice.fast_cosf(angle) if _FAST else tl.cos(angle)
    sin = libdevice.fast_sinf(angle) if _FAST else tl.sin(angle)
    return radius * cos, radius * sin


@triton.jit
def uniform_run(seed, purpose, stream, blocks):
    """Uniform numbers in [0, 1), float32 [4 * B], of neighbouring blocks [B]."""
    w0, w1, w2, w3 = philox_block(seed, purpose, stream, blocks)
    return tl.interleave(tl.interleave(_uniform(w0), _uniform(w2)), tl.interleave(_uniform(w1), _uniform(w3)))


@triton.jit
def normal_run(seed, purpose, stream, blocks):
    """Unit-normal numbers, float32 [4 * B], of neighbouring blocks [B]."""
    w0, w1, w2, w3 = philox_block(seed, purpose, stream, blocks)
    e0, e1 = _normal_pair(w0, w1)
    e2, e3 = _normal_pair(w2, w3)
    return tl.interleave(tl.interleave(e0, e2), tl.interleave(e1, e3))


@triton.jit
def random_kernel(stream, y, seed, purpose, count, shares, NORMAL: tl.constexpr, BLOCKS: tl.constexpr):
    """A program computes one of the `shares` of a row of y, float32 [N, count]: BLOCKS blocks of four numbers."""
    n, share = (tl.program_id(0) // shares).to(tl.int64), tl.program_id(0) % shares
    blocks = share * BLOCKS + tl.arange(0, BLOCKS)
    if NORMAL:
        numbers = normal_run(seed, purpose, tl.load(stream + n), blocks)
    else:
        numbers = uniform_run(seed, purpose, tl.load(stream + n), blocks)
    at = share * 4 * BLOCKS + tl.arange(0, 4 * BLOCKS)
    tl.store(y + n * count + at, numbers, mask=at < count)
