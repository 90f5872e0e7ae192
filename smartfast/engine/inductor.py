"""A fault of torch.compile on CPUs, in every supported version, put right: vectors stored beyond the end of a buffer.

A sum over an inner loop, vectorised over an outer one whose size is no multiple of the vector's, is stored at full
width also in the last block: into the next row, or into memory that belongs to others (pytorch #183699, mended for one
vectorised axis from torch 2.13; #196681, open, for two). Networks with 8 or 24 channels meet it on AVX-512.
"""

from typing import Any

import torch
from torch._inductor.codegen.cpp import CppKernelProxy

CACHE_TAG = "smartfast-tails"
"""In the key of compiled code, so that none is taken from a cache that was filled without the mending."""

_aggregate = CppKernelProxy.aggregate_reduction_buffers


def mend() -> None:
    """Make code compiled from now on in this process store the last block by its size. Further calls change nothing."""
    CppKernelProxy.aggregate_reduction_buffers = _aggregate_by_block  # type: ignore[method-assign,assignment]
    torch.compiler.config.cache_key_tag = CACHE_TAG


def _aggregate_by_block(kernels: Any, reduces_next: bool, vectorised: Any) -> None:
    """Give the last block its own end of the loop wherever a sum runs inside the vectorised loop, at any depth.

    reduces_next: That the loop straight inside the vectorised one is the sum, all that the compiler itself looks at.
    """
    if vectorised is not None and not vectorised.is_reduction:
        inside = [loop.var for loop in kernels.loop_nest.loops].index(vectorised.var) + 1
        reduces_next = reduces_next or any(loop.is_reduction for loop in kernels.loop_nest.loops[inside:])
    _aggregate(kernels, reduces_next, vectorised)
