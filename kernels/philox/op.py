"""Counter-based random numbers: every value is a pure function of (seed, purpose, stream, position).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the key
(seed low word, seed high word) and the counter (position // 4, stream low word, stream high word, purpose);
word `position % 4` of the result belongs to `position`. A stream is one sample of the training run, so a
sample's numbers depend neither on the batch it is in nor on the process that computes it, and nothing has
to be saved to resume. `tl.philox(seed, c0, c1, c2, c3)` computes the same words inside a Triton kernel.

Nothing to differentiate.
"""

import math

import torch
from torch import Tensor

from smartfast.kernels.selection import dispatch, register

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_2 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox_words(seed: int, stream: Tensor, count: int, purpose: int = 0) -> Tensor:
    """Random 32-bit words.

    Args:
        seed: Key, 0 <= seed < 2**64, or the int64 of the same bits.
        stream: int64 [N], one stream per row, not negative.
        count: Words per stream.
        purpose: What the numbers are for, 0 <= purpose < 2**32; two purposes never share a number.

    Returns:
        int64 [N, count], every value in [0, 2**32).
    """
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


def philox_uniform(seed: int, stream: Tensor, count: int, purpose: int = 0, *, impl: str | None = None) -> Tensor:
    """Uniform numbers in [0, 1) with 24 random bits, float32 [N, count]; arguments as `philox_words`.

    impl: "triton", "reference" or "auto" for this call; None = the current choice, see `use`.
    """
    return dispatch("philox_uniform", stream.device, signed(seed), stream, count, purpose, impl=impl)


def philox_normal(seed: int, stream: Tensor, count: int, purpose: int = 0, *, impl: str | None = None) -> Tensor:
    """Unit normal numbers (Box-Muller on words 0, 1 and 2, 3), float32 [N, count]; arguments as `philox_uniform`.

    Triton's are within 6e-6 of the reference's: the GPU's own sine, cosine and logarithm are approximate.
    """
    return dispatch("philox_normal", stream.device, signed(seed), stream, count, purpose, impl=impl)


def signed(seed: int) -> int:
    """A 64-bit word as the int64 of the same bits, which is what an op's arguments hold."""
    return seed - 2**64 if seed >= 2**63 else seed


# Registered ops: a compiler would otherwise copy a hundred integer operations into every kernel that reads a number.
@torch.library.custom_op("smartfast::uniform_reference", mutates_args=())
def uniform_reference(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return _uniform(seed, stream, count, purpose)


@torch.library.custom_op("smartfast::normal_reference", mutates_args=())
def normal_reference(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    uniform = _uniform(seed, stream, -(-count // 4) * 4, purpose).unflatten(1, (-1, 2, 2))
    radius = torch.sqrt(-2.0 * torch.log1p(-uniform[..., 0]))
    angle = (2.0 * math.pi) * uniform[..., 1]
    pair = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=3)
    return pair.flatten(1)[:, :count].contiguous()


def _uniform(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return (philox_words(seed, stream, count, purpose) >> 8).to(torch.float32) * 2.0**-24


@uniform_reference.register_fake
@normal_reference.register_fake
def _(seed: int, stream: Tensor, count: int, purpose: int) -> Tensor:
    return stream.new_empty(stream.shape[0], count, dtype=torch.float32)


register("philox_uniform", "aten", uniform_reference)
register("philox_normal", "aten", normal_reference)
