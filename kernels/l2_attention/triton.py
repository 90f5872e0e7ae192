"""`kernels.l2_attention` on Triton: result and gradients in three kernels; the second derivative is aten's."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..geometry import HALF, wide
from ..runtime import NAMESPACE, compute_dtype, dot_dtype, launch, next_power_of_two
from ..selection import register
from .aten import register_gradients
from .kernels import forward_kernel, key_gradient_kernel, query_gradient_kernel
from .op import empty_by_token

MOST_NUMBERS = 128
"""Of a head that a program holds."""
LEAST_NUMBERS = 16
"""That tensor cores multiply; fewer are filled up with zeros."""


class Tile(NamedTuple):
    """Tokens that a program owns, tokens that it meets at a time, and how it runs."""

    own: int
    other: int
    num_warps: int
    num_stages: int


FORWARD_TILES = {True: Tile(128, 64, 8, 3), False: Tile(64, 32, 8, 2)}
QUERY_GRADIENT_TILES = {True: Tile(64, 32, 4, 2), False: Tile(32, 32, 4, 2)}
KEY_GRADIENT_TILES = {True: Tile(64, 32, 4, 2), False: Tile(32, 16, 4, 2)}
"""By whether the products are of half precision; at least 8 warps for heads of more than 64 numbers.

Larger ones, or fewer warps, spill registers (bench.proofs.compile_report): the gradient of the keys holds two sums.
"""
PRECISIONS = {torch.float32: "tf32x3", torch.float64: "ieee"}
"""Of the products, where not half precision: float32 as the sum of three of TF32, on tensor cores and nearly exact."""


def launch_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """out, and the logarithm of the softmax's denominators [N, heads, L], wide."""
    out, lse = empty_by_token(q), wide(q.new_empty(q.shape[:3]))
    tile = _tile(FORWARD_TILES, q)
    launch(
        forward_kernel,
        (q.shape[0] * q.shape[1] * triton.cdiv(q.shape[2], tile.own),),
        written=("out", "lse"),
        out=out,
        lse=lse,
        **_arguments(tile, q.shape[2], scale, q=q, k=k, v=v),
    )
    return out, lse


def launch_gradients(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv."""
    dq, dk, dv = (empty_by_token(t) for t in (q, k, v))
    lse, delta = lse.contiguous(), torch.empty_like(lse)
    heads = q.shape[0] * q.shape[1]
    tile = _tile(QUERY_GRADIENT_TILES, q)
    launch(
        query_gradient_kernel,
        (heads * triton.cdiv(q.shape[2], tile.own),),
        written=("dq", "delta"),
        lse=lse,
        delta=delta,
        dq=dq,
        **_arguments(tile, q.shape[2], scale, do=do, q=q, k=k, v=v, out=out),
    )
    tile = _tile(KEY_GRADIENT_TILES, q)
    launch(
        key_gradient_kernel,
        (heads * triton.cdiv(k.shape[2], tile.own),),
        written=("dk", "dv"),
        lse=lse,
        delta=delta,
        dk=dk,
        dv=dv,
        **_arguments(tile, k.shape[2], scale, do=do, q=q, k=k, v=v),
    )
    return dq, dk, dv


def _tile(tiles: dict[bool, Tile], q: Tensor) -> Tile:
    tile = tiles[q.dtype in HALF]
    return tile._replace(num_warps=max(tile.num_warps, 8)) if q.shape[3] > 64 else tile


def _arguments(tile: Tile, owned: int, scale: float, **tensors: Tensor) -> dict[str, Any]:
    """What the launches have alike; `owned` tokens of every head are divided into tiles.

    Raises:
        ValueError: Heads of more numbers than a program holds.
    """
    q, keys = tensors["q"], tensors["k"].shape[2]
    heads, queries, size = q.shape[1:]
    if size > MOST_NUMBERS:
        expected = f"expected heads of at most {MOST_NUMBERS} numbers: smaller heads, or aten in place of triton"
        raise ValueError(f"q is {q.dtype} {tuple(q.shape)}, {expected}")
    strides = {
        f"{name}_{axis}": stride
        for name, tensor in tensors.items()
        for axis, stride in zip("nhld", tensor.stride(), strict=True)
    }
    return dict(
        **tensors,
        **strides,
        heads=heads,
        queries=queries,
        keys=keys,
        tiles=triton.cdiv(owned, tile.own),
        D=size,
        BLOCK_D=max(next_power_of_two(size), LEAST_NUMBERS),
        SCALE=scale,
        OWN=tile.own,
        OTHER=tile.other,
        IS_HALF=q.dtype in HALF,
        PRECISION=PRECISIONS.get(q.dtype, "tf32"),
        DOT=dot_dtype(q.dtype),
        ACC=compute_dtype(q.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


@torch.library.custom_op(f"{NAMESPACE}::l2_attention", mutates_args=())
def l2_attention_op(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return launch_forward(q, k, v, scale)


@torch.library.custom_op(f"{NAMESPACE}::l2_attention_gradients", mutates_args=())
def gradients_op(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return launch_gradients(do, q, k, v, out, lse, scale)


def l2_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`kernels.l2_attention`."""
    return l2_attention_op(q, k, v, scale)[0]


register_gradients(l2_attention_op, gradients_op)
register("l2_attention", "triton", l2_attention)
