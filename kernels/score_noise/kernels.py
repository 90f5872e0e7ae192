"""Diffusion noise drawn where it is used: noising images, and the distance of a prediction to what was noised.

One kernel does both, on images seen as [N, channels, pixels] with any strides:

    target = x_factor[n] * x + noise_factor[n] * eps,    written, or
    residual = prediction - target,                      squared and summed, or written with a factor, or both

eps are the numbers of ../philox: a program computes all four of every Philox block, for runs of four neighbours of
one image in NCHW order. Where the tensors are contiguous the image counts as one channel, and four neighbours are
four neighbours in memory. Otherwise a program goes through the channels of its pixels one after the other: in NHWC
its accesses are then one element wide, but each memory sector is fetched from DRAM once, and with three channels it
takes half the instructions of 128-bit accesses with a Philox block for every element (50 against 101 on sm_90).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import runtime
from ..philox.kernels import normal_run
from .op import Target

_VECTORS = ("x_factor", "noise_factor", "y_factor", "stream")


@triton.jit
def _times(values, factor, n):
    """values * factor[n]; factor is None = 1."""
    if factor is not None:
        values = values * tl.load(factor + n).to(values.dtype)
    return values


@triton.jit
def _target(
    x, at, mask, x_factor, noise_factor, n, stream, seed, purpose, blocks, SIZE: tl.constexpr, ACC: tl.constexpr
):
    """x_factor[n] * x + noise_factor[n] * eps in ACC, [SIZE] elements of image n at the offsets `at`."""
    target = tl.zeros((SIZE,), ACC)
    if x is not None:
        target = _times(tl.load(x + at, mask=mask, other=0.0).to(ACC), x_factor, n)
    if stream is not None:
        eps = normal_run(seed, purpose, tl.load(stream + n), blocks).to(ACC)
        target = target + _times(eps, noise_factor, n)
    return target


@triton.jit
def score_noise_kernel(
    prediction,
    x,
    y,
    partial,
    x_factor,
    noise_factor,
    y_factor,
    stream,
    seed,
    purpose,
    prediction_n,
    prediction_c,
    prediction_p,
    x_n,
    x_c,
    x_p,
    y_n,
    y_c,
    y_p,
    channels,
    pixels,
    shares,
    BLOCKS: tl.constexpr,
    ACC: tl.constexpr,
):
    """A program computes one of the `shares` of an image: BLOCKS Philox blocks of every channel.

    Every pointer but x or prediction may be None: no prediction = y is the target; no x_factor, noise_factor,
    y_factor = 1; no x, no stream = not in the target; no y, no partial = not written. y may be prediction itself.
    """
    n, share = (tl.program_id(0) // shares).to(tl.int64), tl.program_id(0) % shares
    total = tl.zeros((4 * BLOCKS,), ACC)
    for c in range(channels):
        first = c * pixels
        blocks = first // 4 + share * BLOCKS + tl.arange(0, BLOCKS)
        # From the first block's start, which lies in the channel before where `pixels` is no multiple of 4.
        p = 4 * (share * BLOCKS) - first % 4 + tl.arange(0, 4 * BLOCKS)
        mask = (p >= 0) & (p < pixels)
        x_at = n * x_n + c * x_c + p * x_p
        y_tile = _target(
            x, x_at, mask, x_factor, noise_factor, n, stream, seed, purpose, blocks, SIZE=4 * BLOCKS, ACC=ACC
        )
        if prediction is not None:
            at = prediction + n * prediction_n + c * prediction_c + p * prediction_p
            y_tile = tl.load(at, mask=mask, other=0.0).to(ACC) - y_tile
        if partial is not None:
            total += tl.where(mask, y_tile * y_tile, 0.0)
        if y is not None:
            y_tile = _times(y_tile, y_factor, n).to(y.dtype.element_ty)
            tl.store(y + n * y_n + c * y_c + p * y_p, y_tile, mask=mask)
    if partial is not None:
        tl.store(partial + tl.program_id(0), tl.sum(total))


def launch_score_noise(
    target: Target, prediction: Tensor | None, y: Tensor | None, y_factor: Tensor | None, sums: bool
) -> Tensor | None:
    """Launch `score_noise_kernel` on images [N, C, H, W] and factors [N].

    Args:
        target: What is noised or predicted.
        prediction: None = y is the target itself.
        y: Receives the target, or y_factor (None = 1) times the residual; may be `prediction`.
        y_factor: [N].
        sums: Whether the squares of the residual are summed.

    Returns:
        Sums [N, programs per image], to be added up, or None.
    """
    images = target.x if prediction is None else prediction
    assert images is not None
    n, c, h, w = images.shape
    prediction, x = (
        image if image is None or has_one_stride(image) else image.contiguous() for image in (prediction, target.x)
    )
    strides = {name: _strides(image) for name, image in (("prediction", prediction), ("x", x), ("y", y))}
    channels, pixels, strides = _merge(c, h * w, strides, in_order=target.stream is not None)
    blocks = triton.cdiv(pixels if channels == 1 or pixels % 4 == 0 else pixels + 3, 4)
    tile = max(32, min(512 if channels == 1 else 256, runtime.next_power_of_two(blocks)))
    shares = triton.cdiv(blocks, tile)
    wide_dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    partial = torch.empty((n, shares), dtype=wide_dtype, device=images.device) if sums else None
    vectors = {**target._asdict(), "y_factor": y_factor}
    arguments: dict[str, Any] = {
        **{name: None if vectors[name] is None else vectors[name].contiguous() for name in _VECTORS},
        **{f"{name}_{axis}": getattr(s, axis, 0) for name, s in strides.items() for axis in "ncp"},
    }
    runtime.launch(
        score_noise_kernel,
        (n * shares,),
        written=tuple(name for name, tensor in (("y", y), ("partial", partial)) if tensor is not None),
        num_warps=max(1, tile // (128 if channels == 1 else 64)),
        prediction=prediction,
        x=x,
        y=y,
        partial=partial,
        seed=target.seed,
        purpose=target.purpose,
        channels=channels,
        pixels=pixels,
        shares=shares,
        BLOCKS=tile,
        ACC=runtime.compute_dtype(images.dtype),
        **arguments,
    )
    return partial


class _Strides(NamedTuple):
    """Of a tensor seen as [N, C, H * W]."""

    n: int
    c: int
    p: int


def _merge(
    channels: int, pixels: int, strides: dict[str, _Strides | None], in_order: bool
) -> tuple[int, int, dict[str, _Strides | None]]:
    """Channels, pixels and strides of the images as one channel if they can be seen so, else as they are.

    in_order: Whether the pixels must stay in NCHW order, as noise needs them; else any order will do that is the same
    in all tensors.
    """
    orders = [(pixels, 1)] if in_order else [(pixels, 1), (1, channels)]
    if channels == 1:
        return channels, pixels, strides
    if any(all(s is None or s[1:] == order for s in strides.values()) for order in orders):
        return 1, channels * pixels, {name: s and _Strides(s.n, 0, 1) for name, s in strides.items()}
    return channels, pixels, strides


def _strides(images: Tensor | None) -> _Strides | None:
    if images is None:
        return None
    n, c, h, w = images.stride()
    return _Strides(n, c, w if images.shape[3] > 1 else h)


def has_one_stride(images: Tensor) -> bool:
    """Whether the rows of `images` follow each other at the stride of their pixels."""
    _, _, height, width = images.shape
    return height == 1 or width == 1 or images.stride(2) == width * images.stride(3)


def empty_like(images: Tensor, dtype: torch.dtype) -> Tensor:
    """For a result: in NHWC where the channels of `images` are neighbours, else contiguous."""
    nhwc = images.shape[1] > 1 and images.stride(1) == 1
    return torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last if nhwc else torch.contiguous_format)
