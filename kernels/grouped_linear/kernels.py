"""Matrix products of runs of rows, each with the weight of its expert, and the launches that choose their tiles.

    rows:       y[t, o] = sum over i of x[t, i] w[e, o, i] + bias[e, o]
    weights:    dw[e, o, i] = sum over the rows t of e of dy[t, o] x[t, i]

A tile of rows belongs to one expert. How many tiles an expert has only the device knows, so there are as many programs
as the worst division of the rows needs, and each finds its expert by the running sum of the tiles; those left over
end at once. A weight's gradient is one program's sum for each of its tiles, so nothing depends on an order of arrival.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..runtime import compute_dtype, dot_dtype, launch, next_power_of_two


class Tile(NamedTuple):
    """Sizes of a program's result and of a step of its sum."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


TENSOR_CORE_TILES = {2: Tile(128, 128, 64, 8, 3), 4: Tile(128, 128, 32, 8, 3)}
"""By the bytes of an element: half precision, and float32 as TF32."""
IEEE_TILE = Tile(64, 64, 16, 4, 2)


@triton.jit
def _run_of(offsets, tile, experts, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """The expert that has a tile, the tile's first row and the expert's last; `experts` where there is no such tile."""
    e = tl.arange(0, EXPERTS)
    first = tl.load(offsets + e, mask=e < experts, other=0)
    last = tl.load(offsets + e + 1, mask=e < experts, other=0)
    tiles = (last - first + BLOCK - 1) // BLOCK
    ends = tl.cumsum(tiles, axis=0)
    expert = tl.sum((ends <= tile).to(tl.int32), axis=0)
    row = tl.sum(tl.where(e == expert, first + (tile - ends + tiles) * BLOCK, 0), axis=0)
    return expert, row, tl.sum(tl.where(e == expert, last, 0), axis=0)


@triton.jit
def rows_kernel(
    x,
    weight,
    bias,
    offsets,
    y,
    x_t,
    x_i,
    weight_e,
    weight_o,
    weight_i,
    inputs,
    outputs,
    experts,
    column_tiles,
    EXPERTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """A tile of y [T, O]: some rows of one expert, some columns."""
    expert, row, end = _run_of(offsets, tl.program_id(0) // column_tiles, experts, EXPERTS, BLOCK_T)
    if expert >= EXPERTS:
        return
    t = row + tl.arange(0, BLOCK_T)
    o = (tl.program_id(0) % column_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    k = tl.arange(0, BLOCK_K)
    x_at = x + t[:, None] * x_t + k[None, :] * x_i
    weight_at = weight + expert.to(tl.int64) * weight_e + o[None, :].to(tl.int64) * weight_o + k[:, None] * weight_i
    total = tl.zeros((BLOCK_T, BLOCK_O), ACC)
    for first in range(0, inputs, BLOCK_K):
        left = inputs - first
        a = tl.load(x_at, mask=(t[:, None] < end) & (k[None, :] < left), other=0.0)
        b = tl.load(weight_at, mask=(k[:, None] < left) & (o[None, :] < outputs), other=0.0)
        total = tl.dot(a.to(DOT), b.to(DOT), total, input_precision=PRECISION, out_dtype=ACC)
        x_at += BLOCK_K * x_i
        weight_at += BLOCK_K * weight_i
    if bias is not None:
        added = tl.load(bias + expert.to(tl.int64) * outputs + o, mask=o < outputs, other=0.0)
        total += added.to(ACC)[None, :]
    y_at = y + t[:, None] * outputs + o[None, :]
    tl.store(y_at, total.to(y.dtype.element_ty), mask=(t[:, None] < end) & (o[None, :] < outputs))


@triton.jit
def weights_kernel(
    dy,
    x,
    offsets,
    dw,
    dy_t,
    dy_o,
    x_t,
    x_i,
    inputs,
    outputs,
    row_tiles,
    column_tiles,
    PRECISION: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """A tile of dw [E, O, I]: the sum over all rows of its expert, none = 0."""
    tile, expert = tl.program_id(0) % (row_tiles * column_tiles), tl.program_id(0) // (row_tiles * column_tiles)
    o = (tile // column_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tile % column_tiles) * BLOCK_I + tl.arange(0, BLOCK_I)
    k = tl.arange(0, BLOCK_K)
    first, end = tl.load(offsets + expert), tl.load(offsets + expert + 1)
    dy_at = dy + (first + k[None, :]) * dy_t + o[:, None] * dy_o
    x_at = x + (first + k[:, None]) * x_t + i[None, :] * x_i
    total = tl.zeros((BLOCK_O, BLOCK_I), ACC)
    for row in range(first, end, BLOCK_K):
        left = end - row
        a = tl.load(dy_at, mask=(k[None, :] < left) & (o[:, None] < outputs), other=0.0)
        b = tl.load(x_at, mask=(k[:, None] < left) & (i[None, :] < inputs), other=0.0)
        total = tl.dot(a.to(DOT), b.to(DOT), total, input_precision=PRECISION, out_dtype=ACC)
        dy_at += BLOCK_K * dy_t
        x_at += BLOCK_K * x_t
    at = dw + (expert.to(tl.int64) * outputs + o[:, None]) * inputs + i[None, :]
    tl.store(at, total.to(dw.dtype.element_ty), mask=(o[:, None] < outputs) & (i[None, :] < inputs))


def launch_rows(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, precision: str) -> Tensor:
    """y [T, O] in the dtype of x; precision is that of float32, ieee or tf32."""
    (rows, inputs), (experts, outputs, _) = x.shape, weight.shape
    tile = choose_tile(x.dtype, precision)
    y = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    row_tiles = (rows + experts * (tile.rows - 1)) // tile.rows
    column_tiles = triton.cdiv(outputs, tile.columns)
    launch(
        rows_kernel,
        (row_tiles * column_tiles,),
        written=("y",),
        x=x,
        weight=weight,
        bias=None if bias is None else bias.contiguous(),
        y=y,
        **_strides(x=(x, "ti"), weight=(weight, "eoi")),
        experts=experts,
        EXPERTS=next_power_of_two(experts),
        BLOCK_T=tile.rows,
        BLOCK_O=tile.columns,
        column_tiles=column_tiles,
        **_shared(tile, x, offsets, precision, inputs, outputs),
    )
    return y


def launch_weights(dy: Tensor, x: Tensor, offsets: Tensor, precision: str) -> Tensor:
    """dw [E, O, I] in the dtype of x; precision is that of float32, ieee or tf32."""
    outputs, inputs, experts = dy.shape[1], x.shape[1], offsets.shape[0] - 1
    tile = choose_tile(x.dtype, precision)
    width = min(tile.columns, max(next_power_of_two(inputs), 16))
    dw = torch.empty((experts, outputs, inputs), dtype=x.dtype, device=x.device)
    row_tiles, column_tiles = triton.cdiv(outputs, tile.rows), triton.cdiv(inputs, width)
    launch(
        weights_kernel,
        (experts * row_tiles * column_tiles,),
        written=("dw",),
        dy=dy,
        x=x,
        dw=dw,
        **_strides(dy=(dy, "to"), x=(x, "ti")),
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        BLOCK_O=tile.rows,
        BLOCK_I=width,
        **_shared(tile, x, offsets, precision, inputs, outputs),
    )
    return dw


def choose_tile(dtype: torch.dtype, precision: str) -> Tile:
    """Of a launch whose tensors are `dtype`."""
    if dtype == torch.float64 or (dtype == torch.float32 and precision == "ieee"):
        return IEEE_TILE
    return TENSOR_CORE_TILES[dtype.itemsize]


def _shared(tile: Tile, x: Tensor, offsets: Tensor, precision: str, inputs: int, outputs: int) -> dict[str, Any]:
    """What both launches have alike."""
    return dict(
        offsets=offsets.contiguous(),
        inputs=inputs,
        outputs=outputs,
        BLOCK_K=tile.depth,
        PRECISION=precision if x.dtype == torch.float32 else "ieee",
        DOT=dot_dtype(x.dtype),
        ACC=compute_dtype(x.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _strides(**tensors: tuple[Tensor, str]) -> dict[str, int]:
    return {
        f"{name}_{axis}": stride
        for name, (tensor, axes) in tensors.items()
        for axis, stride in zip(axes, tensor.stride(), strict=True)
    }
