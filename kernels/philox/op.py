"""Counter-based random numbers: every value is a pure function of (seed, purpose, stream, position).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the key
(seed low word, seed high word) and the counter (position // 4, stream low word, stream high word, purpose);
word `position % 4` of the result belongs to `position`. A stream is one sample of the training run, so a
sample's numbers depend neither on the batch it is in nor on the process that computes it, and nothing has
to be saved to resume. `tl.philox(seed, c0, c1, c2, c3)` computes the same words inside a Triton kernel.

Nothing to differentiate.
"""

import torch
from torch import Tensor

from ..geometry import is_integer
from ..selection import dispatch, public


@public()
def philox_uniform(seed: int, stream: Tensor, count: int, purpose: int = 0, *, impl: str | None = None) -> Tensor:
    """Uniform numbers in [0, 1) with 24 random bits.

    Args:
        seed: Key, 0 <= seed < 2**64, or the int64 of the same bits.
        stream: int64 [N], one stream per row, not negative.
        count: Numbers per stream, 0 <= count < 2**31.
        purpose: What the numbers are for, 0 <= purpose < 2**32; two purposes never share a number.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        float32 [N, count].

    Raises:
        ValueError: An argument of another dtype, shape or range.
    """
    check_draw(seed, stream, count, purpose)
    return dispatch("philox_uniform", stream.device, signed(seed), stream, count, purpose, impl=impl)


@public()
def philox_normal(seed: int, stream: Tensor, count: int, purpose: int = 0, *, impl: str | None = None) -> Tensor:
    """Unit normal numbers (Box-Muller on words 0, 1 and 2, 3), float32 [N, count]; arguments as `philox_uniform`.

    Triton's are within 6e-6 of aten's: the GPU's own sine, cosine and logarithm are approximate.
    """
    check_draw(seed, stream, count, purpose)
    return dispatch("philox_normal", stream.device, signed(seed), stream, count, purpose, impl=impl)


def check_draw(seed: int, stream: Tensor, count: int, purpose: int) -> None:
    """Check the arguments of `philox_uniform`; implementations would make different numbers of others.

    Raises:
        ValueError: An argument of another dtype, shape or range.
    """
    if stream.dtype != torch.int64 or stream.ndim != 1:
        raise ValueError(f"stream is {stream.dtype} {tuple(stream.shape)}, expected torch.int64 [N]")
    if not is_integer(seed) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}, expected an integer 0 <= seed < 2**64 or an int64")
    if not is_integer(count) or not 0 <= count < 2**31:
        raise ValueError(f"count is {count}, expected an integer 0 <= count < 2**31")
    if not is_integer(purpose) or not 0 <= purpose < 2**32:
        raise ValueError(f"purpose is {purpose}, expected an integer 0 <= purpose < 2**32")


def signed(seed: int) -> int:
    """A 64-bit word as the int64 of the same bits, which is what an op's arguments hold."""
    return seed - 2**64 if seed >= 2**63 else seed
