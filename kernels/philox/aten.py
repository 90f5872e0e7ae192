"""Philox in PyTorch's integers, and the numbers made of its words."""

import math

import torch
from torch import Tensor

from ..geometry import wide
from ..selection import register
from .op import check_draw, signed

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_2 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox_words(seed: int, stream: Tensor, count: int, purpose: int = 0) -> Tensor:
    """Random 32-bit words, int64 [N, count] in [0, 2**32); arguments and errors as `philox_uniform`."""
    check_draw(seed, stream, count, purpose)
    groups = -(-count // 4)
    c0 = torch.arange(groups, device=stream.device).expand(stream.shape[0], groups)
    c1 = (stream & _WORD)[:, None].expand_as(c0)
    c2 = ((stream >> 32) & _WORD)[:, None].expand_as(c0)
    c3 = torch.full_like(c0, purpose)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(_ROUNDS):
        # The products of two 32-bit words wrap around in int64; both halves survive as bit patterns.
        p0, p2 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_2
        c0, c1, c2, c3 = (
            ((p2 >> 32) & _WORD) ^ c1 ^ k0,
            p2 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL_0) & _WORD, (k1 + _WEYL_1) & _WORD
    return torch.stack([c0, c1, c2, c3], dim=2).flatten(1)[:, :count]


# Registered ops: a compiler would otherwise copy a hundred integer operations into every kernel that reads a number.
@torch.library.custom_op("smartfast::uniform_reference", mutates_args=())
def uniform(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return _uniform(seed, stream, count, purpose)


@torch.library.custom_op("smartfast::normal_reference", mutates_args=())
def normal(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    uniform = _uniform(seed, stream, -(-count // 4) * 4, purpose).unflatten(1, (-1, 2, 2))
    radius = torch.sqrt(-2.0 * torch.log1p(-uniform[..., 0]))
    angle = (2.0 * math.pi) * uniform[..., 1]
    pair = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=3)
    return pair.flatten(1)[:, :count].contiguous()


def _uniform(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return (philox_words(seed, stream, count, purpose) >> 8).to(torch.float32) * 2.0**-24


@uniform.register_fake
@normal.register_fake
def _(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return stream.new_empty(stream.shape[0], count, dtype=torch.float32)


def noise_like(images: Tensor, seed: int, stream: Tensor, purpose: int) -> Tensor:
    """Unit normal noise in the shape and dtype (at least float32) of images [N, C, H, W]; others as `philox_normal`."""
    count = images[0].numel() if len(images) else 0
    check_draw(seed, stream, count, purpose)
    eps = normal(signed(seed), stream, count, purpose)
    return eps.to(wide(images).dtype).reshape(images.shape)


register("philox_uniform", "aten", uniform)
register("philox_normal", "aten", normal)
