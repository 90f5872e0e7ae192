"""Philox4x32-10 in Python's integers, after the paper, and numbers of its words in float64."""

import torch
from torch import Tensor


def block(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The four 32-bit words of a counter of four and a key of two."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p2 >> 32) ^ c1 ^ k0, p2 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(seed: int, stream: int, count: int, purpose: int = 0) -> list[int]:
    """Words of one stream."""
    key, tail = (seed % 2**32, seed >> 32 & 0xFFFFFFFF), (stream % 2**32, stream >> 32, purpose)
    return [word for i in range(-(-count // 4)) for word in block((i, *tail), key)][:count]


def normal(seed: int, stream: int, count: int, purpose: int = 0) -> Tensor:
    """float64 [count]: sqrt(-2 log(1 - u)) times cosine and sine of 2 pi v, u and v of 24 bits."""
    bits = torch.tensor([word >> 8 for word in words(seed, stream, -(-count // 4) * 4, purpose)])
    u, v = (bits.double() / 2**24).unflatten(0, (-1, 2)).unbind(dim=1)
    radius, angle = (-2 * torch.log1p(-u)).sqrt(), 2 * torch.pi * v
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()[:count]
