"""Calls of the ops that the StyleGAN2 trainings of `sizes` do not make, at the sizes of the trainings that do.

Aurora's attention and experts at its published widths (arXiv 2309.03904: 8 heads of 64 numbers, feed-forward networks
of 4 times the channels, gated), and the warp of ADA. No network is built for them: they are few, and the widths known.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from bench.count.layers import Case

OTHERS = "batch 4 of what Aurora's generator calls at 64 pixels and ADA at 32 and 256."
OPS = ("grouped_linear", "l2_attention", "warp2d")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BATCH, HEADS, NUMBERS = 4, 8, 64
EXPERTS = {8: (1600, 4), 16: (1024, 8), 32: (512, 16), 64: (256, 16)}
"""By resolution: channels, experts."""
FILTER_TAPS = 12


def other_cases(dtypes: Sequence[torch.dtype] = DTYPES) -> Iterator[tuple[str, Case]]:
    """The model's name and a call, on the meta device."""
    for resolution, dtype in product(EXPERTS, dtypes):
        yield "aurora", attention(resolution, dtype)
        yield from (("aurora", case) for case in experts(resolution, dtype))
    for resolution, dtype in product((32, 256), dtypes):
        if dtype != torch.bfloat16:
            yield "ada", warp(resolution, dtype)


def attention(resolution: int, dtype: torch.dtype) -> Case:
    """Queries and keys are halves of one projection, as Aurora splits it."""
    both = _empty((BATCH, resolution**2, HEADS, 2 * NUMBERS), dtype)
    q, k = (half.transpose(1, 2).requires_grad_() for half in both.split(NUMBERS, dim=3))
    v = _empty((BATCH, resolution**2, HEADS, NUMBERS), dtype).transpose(1, 2).requires_grad_()
    return Case("l2_attention", resolution, f"b{resolution}.attention", dict(q=q, k=k, v=v, scale=NUMBERS**-0.5))


def experts(resolution: int, dtype: torch.dtype) -> Iterator[Case]:
    """Both layers of the feed-forward networks."""
    channels, count = EXPERTS[resolution]
    for name, inputs, outputs in (("in", channels, 8 * channels), ("out", 4 * channels, channels)):
        shapes = ((BATCH * resolution**2, inputs), (count, outputs, inputs), (count, outputs))
        x, weight, bias = (_empty(shape, dtype).requires_grad_() for shape in shapes)
        offsets = torch.empty(count + 1, dtype=torch.int64, device="meta")
        arguments = dict(x=x, weight=weight, bias=bias, offsets=offsets)
        yield Case("grouped_linear", resolution, f"b{resolution}.experts.{name}", arguments)


def warp(resolution: int, dtype: torch.dtype) -> Case:
    """RGB images before the discriminator, as NCHW."""
    images = _empty((BATCH, 3, resolution, resolution), dtype).requires_grad_()
    matrix, f = _empty((BATCH, 2, 3), torch.float32), _empty((FILTER_TAPS,), torch.float32)
    return Case("warp2d", resolution, "augmentation", dict(x=images, matrix=matrix, f=f))


def forward_flops(case: Case) -> float:
    """Of the matrix products of a case, 0 where there are none."""
    a = case.arguments
    if case.op == "grouped_linear":
        return 2.0 * a["x"].shape[0] * prod(a["weight"].shape[1:])
    return 4.0 * a["q"].numel() * a["k"].shape[2] if case.op == "l2_attention" else 0.0


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
