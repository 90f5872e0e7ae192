"""What every Triton op shares: launching and recording, dtypes of computation, memory layouts, clear errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import forms
from .selection import INTERPRETED
from .selection import NAMESPACE as NAMESPACE

if INTERPRETED:
    from .interpreter import mend

    mend()

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_PROGRAMS = 65_535
"""Along the second and the third axis of a grid (CUDA C++ Programming Guide, technical specifications)."""
MOST_WARPS = 16
"""Of a form: 32 would leave a thread too few registers."""


class Launch(NamedTuple):
    """One kernel launch as it was asked for; `bench.proofs.compile_report` compiles it, byte counts read its tensors.

    arguments: All parameters of the kernel by name, constexprs included. options: num_warps, num_stages, and maxnreg
    where set. written: Names of the tensors that the kernel writes; it reads the others.
    """

    kernel: triton.JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, int]
    written: tuple[str, ...]


_recorded: list[Launch] | None = None


@contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Collect launches instead of running them; launch functions then accept tensors of the meta device."""
    global _recorded
    outer, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = outer


def launch(
    kernel: triton.JITFunction,
    grid: tuple[int, ...],
    *,
    written: tuple[str, ...],
    num_warps: int = 4,
    num_stages: int = 3,
    max_registers: int | None = None,
    **arguments: Any,
) -> None:
    """Run a kernel, or record it inside `record_launches`. An empty grid runs nothing.

    max_registers: Registers that a thread may use. Without it the compiler aims for an occupancy of its own choice and
    may spill a few registers to reach it.

    Raises:
        ValueError: The tensors are not where this process can run Triton, or on different devices; a grid longer than
            CUDA's.
    """
    if max(grid[1:], default=0) > MOST_PROGRAMS:
        raise ValueError(
            f"{kernel.fn.__name__}: found a grid of {grid} programs, expected at most {MOST_PROGRAMS} along the second "
            "and the third axis: smaller images or fewer channels, or aten in place of triton"
        )
    if forms.are_asked_for():
        num_warps = _warps(f"{kernel.fn.__name__} {grid} {arguments[written[0]].dtype}", num_warps)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    if max_registers is not None:
        options["maxnreg"] = max_registers
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, arguments, options, written))
        return
    if 0 in grid:
        return
    device = arguments[written[0]].device
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.device != device:
            raise ValueError(f"{name} is on {value.device}, expected {device} as the other tensors")
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](**arguments, **options)
    elif INTERPRETED and device.type == "cpu":
        kernel[grid](**arguments, **options)
    else:
        raise ValueError(
            f"kernels: the tensors are on {device.type}, expected a GPU for triton "
            "(or TRITON_INTERPRET=1 in the environment before Python starts, for tests on a CPU)"
        )


def _warps(key: str, default: int) -> int:
    others = {"half the warps": default // 2, "twice the warps": default * 2}
    return forms.pick(key, {forms.DEFAULT: default} | {n: w for n, w in others.items() if 1 <= w <= MOST_WARPS})


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What a kernel computes in for tensors of `dtype`: float32, float64 for float64.

    Raises:
        ValueError: No dtype that the kernels take.
    """
    if dtype not in DTYPES:
        raise ValueError(f"x is {dtype}, expected float16, bfloat16, float32 or float64")
    return tl.float64 if dtype == torch.float64 else tl.float32


def dot_dtype(dtype: torch.dtype) -> tl.dtype:
    """What a kernel multiplies matrices of `dtype` in: the same, but what Triton's interpreter cannot, in float32."""
    known = {torch.float16: tl.float16, torch.bfloat16: tl.float32 if INTERPRETED else tl.bfloat16}
    return known.get(dtype) or compute_dtype(dtype)


def is_channels_last(x: Tensor) -> bool:
    """Whether images [N, C, H, W] are stored as NHWC; where both orders are the same (C or H * W is 1), they are."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor, *, channels_last: bool) -> Tensor:
    """x [N, C, H, W] in NHWC or NCHW order without gaps; a copy only where it is stored otherwise."""
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
