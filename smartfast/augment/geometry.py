"""The affine map of an augmentation, in pixels from the image's centre."""

import math

import torch
from torch import Tensor

from smartfast.augment.transforms import Transforms
from smartfast.kernels import warp2d

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""The symlet of six vanishing moments (Daubechies, "Ten Lectures on Wavelets", table 8.3), a sharp low-pass filter."""


def warp_filter(device: torch.device) -> Tensor:
    """SYM6 with a sum of one, float32 [12]."""
    taps = torch.tensor(SYM6, dtype=torch.float64)
    return (taps / taps.sum()).to(torch.float32).to(device)


def has_geometry(transforms: Transforms) -> bool:
    """Whether any pixel moves."""
    return any(value is not None for value in transforms[:8])


def warp(images: Tensor, transforms: Transforms, f: Tensor) -> Tensor:
    """Images [N, C, H, W] after the first eight transforms; f is `warp_filter`."""
    return warp2d(images, inverse_map(transforms, images.shape[3], images.shape[2])[:, :2], f)


def inverse_map(transforms: Transforms, width: int, height: int) -> Tensor:
    """[N, 3, 3]: where each pixel of the result comes from."""
    t = transforms
    steps: list[Tensor] = []
    if t.flip is not None:
        steps.append(_scaling(1 - 2 * t.flip, torch.ones_like(t.flip)))
    if t.quarters is not None:
        steps.append(_rotation(t.quarters * (math.pi / 2)))
    if t.shift is not None:
        steps.append(_translation(-(t.shift[:, 0] * width).round(), -(t.shift[:, 1] * height).round()))
    if t.zoom is not None:
        steps.append(_scaling(1 / t.zoom, 1 / t.zoom))
    if t.turn_before is not None:
        steps.append(_rotation(t.turn_before))
    if t.stretch is not None:
        steps.append(_scaling(1 / t.stretch, t.stretch))
    if t.turn_after is not None:
        steps.append(_rotation(t.turn_after))
    if t.move is not None:
        steps.append(_translation(-t.move[:, 0] * width, -t.move[:, 1] * height))
    product = steps[0]
    for step in steps[1:]:
        product = product @ step
    return product


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, one], dim=1).unflatten(1, (3, 3))


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix(x, zero, zero, zero, y, zero)


def _rotation(radians: Tensor) -> Tensor:
    zero, cosine, sine = torch.zeros_like(radians), radians.cos(), radians.sin()
    return _matrix(cosine, -sine, zero, sine, cosine, zero)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(one, zero, x, zero, one, y)
