"""Attention by distance in tiles of queries and keys: a softmax that is corrected as it goes, and p computed anew.

    d = ||q_i - k_j||,  p = exp(-scale d - lse_i),  w = -scale p (do_i v_j - delta_i) / d,  delta_i = do_i out_i
    dq_i = sum_j w (q_i - k_j),    dk_j = -sum_i w (q_i - k_j),    dv_j = sum_i p do_i

The forward kernel and the one for dq own some queries and go over the keys, the one for dk and dv owns some keys and
goes over the queries: every sum is one program's, none depends on an order of arrival.

Half precision multiplies q and k on tensor cores, d^2 = |q|^2 + |k|^2 - 2 q k in float32; what rounding alone can
explain counts as a distance of 0. w is rounded to TF32, whose range is float32's, before both of its uses: then the
rounding changes a weight of q - k and nothing that cancels. float32, where the cancellation itself would show, adds up
squared differences, and multiplies in full.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import HALF, wide
from ..runtime import compute_dtype, dot_dtype, launch, next_power_of_two
from .op import empty_by_token

MOST_NUMBERS = 128
"""Of a head that a program holds."""
LEAST_NUMBERS = 16
"""That tensor cores multiply; fewer are filled up with zeros."""
TIE: tl.constexpr = tl.constexpr(2.0**-20)
"""Squared distance relative to |q|^2 + |k|^2 up to which the rounding of a product in float32 makes it."""
TINY: tl.constexpr = tl.constexpr(1e-37)
"""Smallest squared distance that counts: smaller ones have no reciprocal."""
SPLIT: tl.constexpr = tl.constexpr(2.0**13 + 1)
"""Factor that splits float32 into the 11 bits of TF32 and the rest (Dekker, Numer. Math. 18, 1971)."""


class Tile(NamedTuple):
    """Tokens that a program owns, tokens that it meets at a time, and how it runs."""

    own: int
    other: int
    num_warps: int
    num_stages: int


FORWARD_TILES = {True: Tile(128, 64, 4, 3), False: Tile(64, 32, 4, 2)}
GRADIENT_TILES = {True: Tile(64, 64, 4, 2), False: Tile(32, 32, 4, 2)}
"""By whether the products are of half precision; twice the warps for heads of more than 64 numbers."""


@triton.jit
def _rows(base, stride_l, stride_d, row, count, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """A tile [rows, BLOCK_D] of tokens, 0 where there are none."""
    d = tl.arange(0, BLOCK_D)
    mask = (row[:, None] < count) & (d[None, :] < D)
    return tl.load(base + row[:, None].to(tl.int64) * stride_l + d[None, :] * stride_d, mask=mask, other=0.0)


@triton.jit
def _square(
    own,
    other,
    own_at,
    other_at,
    own_row,
    other_row,
    own_count,
    other_count,
    own_l,
    own_d,
    other_l,
    other_d,
    D: tl.constexpr,
    IS_HALF: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Squared distances [own, other] of two tiles, which are read again, number by number, where not half precision."""
    if IS_HALF:
        product = tl.dot(own.to(DOT), tl.trans(other.to(DOT)), out_dtype=ACC)
        own, other = own.to(ACC), other.to(ACC)
        total = tl.sum(own * own, axis=1)[:, None] + tl.sum(other * other, axis=1)[None, :]
        square = total - 2 * product
        return tl.where(square > total * TIE, square, 0.0)
    own_at += own_row.to(tl.int64) * own_l
    other_at += other_row.to(tl.int64) * other_l
    square = tl.zeros((own_row.shape[0], other_row.shape[0]), ACC)
    for d in range(D):
        a = tl.load(own_at + d * own_d, mask=own_row < own_count, other=0.0).to(ACC)
        b = tl.load(other_at + d * other_d, mask=other_row < other_count, other=0.0).to(ACC)
        square += (a[:, None] - b[None, :]) * (a[:, None] - b[None, :])
    return square


@triton.jit
def _weights(p, dp, delta, inverse, SCALE: tl.constexpr, IS_HALF: tl.constexpr):
    """w of the module."""
    w = p * (dp - delta) * (inverse * -SCALE)
    if IS_HALF:
        shifted = w * SPLIT
        w = shifted - (shifted - w)
    return w


@triton.jit
def _pulled(w, other, total, pivot, IS_HALF: tl.constexpr, ACC: tl.constexpr):
    """total + w (other - pivot)."""
    if IS_HALF:
        return tl.dot(w, other.to(ACC), total, input_precision="tf32", out_dtype=ACC)
    return tl.dot(w, other.to(ACC) - pivot[None, :], total, input_precision="ieee", out_dtype=ACC)


@triton.jit
def _inverse(square):
    """1 / d, 0 at a distance of 0."""
    return tl.where(square > TINY, tl.rsqrt(tl.maximum(square, TINY)), 0.0)


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    out,
    lse,
    q_n,
    q_h,
    q_l,
    q_d,
    k_n,
    k_h,
    k_l,
    k_d,
    v_n,
    v_h,
    v_l,
    v_d,
    heads,
    queries,
    keys,
    tiles,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALE: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    IS_HALF: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """out and lse of a tile of queries."""
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    n, h = head // heads, head % heads
    q, k, v = q + n * q_n + h * q_h, k + n * k_n + h * k_h, v + n * v_n + h * v_h
    i = tile * OWN + tl.arange(0, OWN)
    own = _rows(q, q_l, q_d, i, queries, D, BLOCK_D)
    largest, total = tl.full((OWN,), float("-inf"), ACC), tl.zeros((OWN,), ACC)
    result = tl.zeros((OWN, BLOCK_D), ACC)
    for first in range(0, keys, OTHER):
        j = first + tl.arange(0, OTHER)
        other = _rows(k, k_l, k_d, j, keys, D, BLOCK_D)
        square = _square(own, other, q, k, i, j, queries, keys, q_l, q_d, k_l, k_d, D, IS_HALF, DOT, ACC)
        logits = tl.where(j[None, :] < keys, tl.sqrt(square) * -SCALE, float("-inf"))
        now = tl.maximum(largest, tl.max(logits, axis=1))
        p, kept = tl.exp(logits - now[:, None]), tl.exp(largest - now)
        total = total * kept + tl.sum(p, axis=1)
        value = _rows(v, v_l, v_d, j, keys, D, BLOCK_D).to(DOT)
        result = tl.dot(p.to(DOT), value, result * kept[:, None], input_precision="ieee", out_dtype=ACC)
        largest = now
    d = tl.arange(0, BLOCK_D)
    at = out + ((n * queries + i[:, None]) * heads + h) * D + d[None, :]
    result = (result / total[:, None]).to(out.dtype.element_ty)
    tl.store(at, result, mask=(i[:, None] < queries) & (d[None, :] < D))
    tl.store(lse + head * queries + i, largest + tl.log(total), mask=i < queries)


@triton.jit
def query_gradient_kernel(
    do,
    q,
    k,
    v,
    out,
    lse,
    delta,
    dq,
    do_n,
    do_h,
    do_l,
    do_d,
    q_n,
    q_h,
    q_l,
    q_d,
    k_n,
    k_h,
    k_l,
    k_d,
    v_n,
    v_h,
    v_l,
    v_d,
    out_n,
    out_h,
    out_l,
    out_d,
    heads,
    queries,
    keys,
    tiles,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALE: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    IS_HALF: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """dq and delta of a tile of queries."""
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    n, h = head // heads, head % heads
    q, k, v = q + n * q_n + h * q_h, k + n * k_n + h * k_h, v + n * v_n + h * v_h
    do, out = do + n * do_n + h * do_h, out + n * out_n + h * out_h
    i, d = tile * OWN + tl.arange(0, OWN), tl.arange(0, BLOCK_D)
    own = _rows(q, q_l, q_d, i, queries, D, BLOCK_D)
    upstream = _rows(do, do_l, do_d, i, queries, D, BLOCK_D)
    result = _rows(out, out_l, out_d, i, queries, D, BLOCK_D)
    inner = tl.sum(upstream.to(ACC) * result.to(ACC), axis=1)
    tl.store(delta + head * queries + i, inner, mask=i < queries)
    norm = tl.load(lse + head * queries + i, mask=i < queries, other=0.0)
    pivot = tl.load(k + d * k_d, mask=d < D, other=0.0).to(ACC)
    weight, pull = tl.zeros((OWN,), ACC), tl.zeros((OWN, BLOCK_D), ACC)
    for first in range(0, keys, OTHER):
        j = first + tl.arange(0, OTHER)
        other = _rows(k, k_l, k_d, j, keys, D, BLOCK_D)
        square = _square(own, other, q, k, i, j, queries, keys, q_l, q_d, k_l, k_d, D, IS_HALF, DOT, ACC)
        inverse = _inverse(square)
        p = tl.where(j[None, :] < keys, tl.exp(square * inverse * -SCALE - norm[:, None]), 0.0)
        value = _rows(v, v_l, v_d, j, keys, D, BLOCK_D).to(DOT)
        dp = tl.dot(upstream.to(DOT), tl.trans(value), input_precision="ieee", out_dtype=ACC)
        w = _weights(p, dp, inner[:, None], inverse, SCALE, IS_HALF)
        weight += tl.sum(w, axis=1)
        pull = _pulled(w, other, pull, pivot, IS_HALF, ACC)
    own = own.to(ACC) if IS_HALF else own.to(ACC) - pivot[None, :]
    at = dq + ((n * queries + i[:, None]) * heads + h) * D + d[None, :]
    gradient = (own * weight[:, None] - pull).to(dq.dtype.element_ty)
    tl.store(at, gradient, mask=(i[:, None] < queries) & (d[None, :] < D))


@triton.jit
def key_gradient_kernel(
    do,
    q,
    k,
    v,
    lse,
    delta,
    dk,
    dv,
    do_n,
    do_h,
    do_l,
    do_d,
    q_n,
    q_h,
    q_l,
    q_d,
    k_n,
    k_h,
    k_l,
    k_d,
    v_n,
    v_h,
    v_l,
    v_d,
    heads,
    queries,
    keys,
    tiles,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SCALE: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    IS_HALF: tl.constexpr,
    DOT: tl.constexpr,
    ACC: tl.constexpr,
):
    """dk and dv of a tile of keys; matrices are [keys, queries]."""
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    n, h = head // heads, head % heads
    q, k, v = q + n * q_n + h * q_h, k + n * k_n + h * k_h, v + n * v_n + h * v_h
    do = do + n * do_n + h * do_h
    j, d = tile * OWN + tl.arange(0, OWN), tl.arange(0, BLOCK_D)
    own = _rows(k, k_l, k_d, j, keys, D, BLOCK_D)
    value = _rows(v, v_l, v_d, j, keys, D, BLOCK_D).to(DOT)
    pivot = tl.load(k + d * k_d, mask=d < D, other=0.0).to(ACC)
    weight, pull, dvalue = tl.zeros((OWN,), ACC), tl.zeros((OWN, BLOCK_D), ACC), tl.zeros((OWN, BLOCK_D), ACC)
    for first in range(0, queries, OTHER):
        i = first + tl.arange(0, OTHER)
        other = _rows(q, q_l, q_d, i, queries, D, BLOCK_D)
        square = _square(own, other, k, q, j, i, keys, queries, k_l, k_d, q_l, q_d, D, IS_HALF, DOT, ACC)
        norm = tl.load(lse + head * queries + i, mask=i < queries, other=0.0)
        inner = tl.load(delta + head * queries + i, mask=i < queries, other=0.0)
        inverse = _inverse(square)
        p = tl.where(i[None, :] < queries, tl.exp(square * inverse * -SCALE - norm[None, :]), 0.0)
        upstream = _rows(do, do_l, do_d, i, queries, D, BLOCK_D).to(DOT)
        dvalue = tl.dot(p.to(DOT), upstream, dvalue, input_precision="ieee", out_dtype=ACC)
        dp = tl.dot(value, tl.trans(upstream), input_precision="ieee", out_dtype=ACC)
        w = _weights(p, dp, inner[None, :], inverse, SCALE, IS_HALF)
        weight += tl.sum(w, axis=1)
        pull = _pulled(w, other, pull, pivot, IS_HALF, ACC)
    own = own.to(ACC) if IS_HALF else own.to(ACC) - pivot[None, :]
    at = ((n * keys + j[:, None]) * heads + h) * D + d[None, :]
    mask = (j[:, None] < keys) & (d[None, :] < D)
    tl.store(dk + at, (own * weight[:, None] - pull).to(dk.dtype.element_ty), mask=mask)
    tl.store(dv + at, dvalue.to(dv.dtype.element_ty), mask=mask)


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
    tile, heads = _tile(GRADIENT_TILES, q), q.shape[0] * q.shape[1]
    launch(
        query_gradient_kernel,
        (heads * triton.cdiv(q.shape[2], tile.own),),
        written=("dq", "delta"),
        lse=lse,
        delta=delta,
        dq=dq,
        **_arguments(tile, q.shape[2], scale, do=do, q=q, k=k, v=v, out=out),
    )
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
    return tile._replace(num_warps=2 * tile.num_warps) if q.shape[3] > 64 else tile


def _arguments(tile: Tile, owned: int, scale: float, **tensors: Tensor) -> dict[str, Any]:
    """What the launches have alike; `owned` tokens of every head are divided into tiles.

    Raises:
        ValueError: Heads of more numbers than a program holds.
    """
    q, keys = tensors["q"], tensors["k"].shape[2]
    heads, queries, size = q.shape[1:]
    if size > MOST_NUMBERS:
        raise ValueError(
            f"q is {q.dtype} {tuple(q.shape)}, expected heads of at most {MOST_NUMBERS} numbers: smaller heads, or aten "
            "in place of triton"
        )
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
        DOT=dot_dtype(q.dtype),
        ACC=compute_dtype(q.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
