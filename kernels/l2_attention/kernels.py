"""Attention by distance in tiles of queries and keys: a softmax that is corrected as it goes, and p computed anew.

    d = ||q_i - k_j||,  p = exp(-scale d - lse_i),  w = -scale p (do_i v_j - delta_i) / d,  delta_i = do_i out_i
    dq_i = sum_j w (q_i - k_j),    dk_j = -sum_i w (q_i - k_j),    dv_j = sum_i p do_i

The forward kernel and the one for dq own some queries and go over the keys, the one for dk and dv owns some keys and
goes over the queries: every sum is one program's, none depends on an order of arrival.

Half precision multiplies q and k on tensor cores, d^2 = |q|^2 + |k|^2 - 2 q k in float32; what rounding alone can
explain counts as a distance of 0. w is rounded to TF32, whose range is float32's, before both of its uses: then the
rounding changes a weight of q - k and nothing that cancels. float32, where the cancellation itself would show, adds up
squared differences number by number.
"""

import triton
import triton.language as tl

TIE: tl.constexpr = tl.constexpr(2.0**-20)
"""Squared distance relative to |q|^2 + |k|^2 up to which the rounding of a product in float32 makes it."""
TINY: tl.constexpr = tl.constexpr(1e-37)
"""Smallest squared distance that counts: smaller ones have no reciprocal."""
HALF_UNIT: tl.constexpr = tl.constexpr(0x1000)
"""Half of the last bit that TF32 keeps of float32's, as an integer."""


@triton.jit
def _rows(base, stride_l, stride_d, row, count, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """A tile [rows, BLOCK_D] of tokens, 0 where there are none."""
    d = tl.arange(0, BLOCK_D)
    mask = (row[:, None] < count) & (d[None, :] < D)
    return tl.load(base + row[:, None].to(tl.int64) * stride_l + d[None, :] * stride_d, mask=mask, other=0.0)


@triton.jit
def _square_by_number(
    own,
    other,
    own_row,
    other_row,
    own_count,
    other_count,
    own_l,
    own_d,
    other_l,
    other_d,
    D: tl.constexpr,
    ACC: tl.constexpr,
):
    """Squared distances [own, other] of two tiles, which are read number by number."""
    own += own_row.to(tl.int64) * own_l
    other += other_row.to(tl.int64) * other_l
    square = tl.zeros((own_row.shape[0], other_row.shape[0]), ACC)
    for d in range(D):
        a = tl.load(own + d * own_d, mask=own_row < own_count, other=0.0).to(ACC)
        b = tl.load(other + d * other_d, mask=other_row < other_count, other=0.0).to(ACC)
        square += (a[:, None] - b[None, :]) * (a[:, None] - b[None, :])
    return square


@triton.jit
def _square_by_product(own, other, DOT: tl.constexpr, ACC: tl.constexpr):
    """Squared distances [own, other] of two tiles in half precision, by their product."""
    product = tl.dot(own.to(DOT), tl.trans(other.to(DOT)), out_dtype=ACC)
    own, other = own.to(ACC), other.to(ACC)
    total = tl.sum(own * own, axis=1)[:, None] + tl.sum(other * other, axis=1)[None, :]
    square = total - 2 * product
    return tl.where(square > total * TIE, square, 0.0)


@triton.jit
def _weights(p, dp, delta, inverse, SCALE: tl.constexpr, IS_HALF: tl.constexpr):
    """w of the module."""
    w = p * (dp - delta) * (inverse * -SCALE)
    if IS_HALF:
        # By its bits: a compiler makes fused operations of sums, which round nothing. A NaN stays what it is.
        rounded = ((w.to(tl.int32, bitcast=True) + HALF_UNIT) & -2 * HALF_UNIT).to(tl.float32, bitcast=True)
        w = tl.where(w == w, rounded, w)
    return w


@triton.jit
def _pulled(w, other, total, pivot, IS_HALF: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """total + w (other - pivot); in half precision, where the difference would be rounded, without the pivot."""
    other = other.to(ACC)
    if not IS_HALF:
        other -= pivot[None, :]
    return tl.dot(w, other, total, input_precision=PRECISION, out_dtype=ACC)


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
    PRECISION: tl.constexpr,
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
        if IS_HALF:
            square = _square_by_product(own, other, DOT, ACC)
        else:
            square = _square_by_number(q, k, i, j, queries, keys, q_l, q_d, k_l, k_d, D, ACC)
        logits = tl.where(j[None, :] < keys, tl.sqrt(square) * -SCALE, float("-inf"))
        now = tl.maximum(largest, tl.max(logits, axis=1))
        p, kept = tl.exp(logits - now[:, None]), tl.exp(largest - now)
        total = total * kept + tl.sum(p, axis=1)
        value = _rows(v, v_l, v_d, j, keys, D, BLOCK_D).to(DOT)
        result = tl.dot(p.to(DOT), value, result * kept[:, None], input_precision=PRECISION, out_dtype=ACC)
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
    PRECISION: tl.constexpr,
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
        if IS_HALF:
            square = _square_by_product(own, other, DOT, ACC)
        else:
            square = _square_by_number(q, k, i, j, queries, keys, q_l, q_d, k_l, k_d, D, ACC)
        inverse = _inverse(square)
        p = tl.where(j[None, :] < keys, tl.exp(square * inverse * -SCALE - norm[:, None]), 0.0)
        value = _rows(v, v_l, v_d, j, keys, D, BLOCK_D).to(DOT)
        dp = tl.dot(upstream.to(DOT), tl.trans(value), input_precision=PRECISION, out_dtype=ACC)
        w = _weights(p, dp, inner[:, None], inverse, SCALE, IS_HALF)
        weight += tl.sum(w, axis=1)
        pull = _pulled(w, other, pull, pivot, IS_HALF, PRECISION, ACC)
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
    PRECISION: tl.constexpr,
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
        if IS_HALF:
            square = _square_by_product(own, other, DOT, ACC)
        else:
            square = _square_by_number(k, q, j, i, keys, queries, k_l, k_d, q_l, q_d, D, ACC)
        norm = tl.load(lse + head * queries + i, mask=i < queries, other=0.0)
        inner = tl.load(delta + head * queries + i, mask=i < queries, other=0.0)
        inverse = _inverse(square)
        p = tl.where(i[None, :] < queries, tl.exp(square * inverse * -SCALE - norm[None, :]), 0.0)
        upstream = _rows(do, do_l, do_d, i, queries, D, BLOCK_D).to(DOT)
        dvalue = tl.dot(p.to(DOT), upstream, dvalue, input_precision=PRECISION, out_dtype=ACC)
        dp = tl.dot(value, tl.trans(upstream), input_precision=PRECISION, out_dtype=ACC)
        w = _weights(p, dp, inner[None, :], inverse, SCALE, IS_HALF)
        weight += tl.sum(w, axis=1)
        pull = _pulled(w, other, pull, pivot, IS_HALF, PRECISION, ACC)
    own = own.to(ACC) if IS_HALF else own.to(ACC) - pivot[None, :]
    at = ((n * keys + j[:, None]) * heads + h) * D + d[None, :]
    mask = (j[:, None] < keys) & (d[None, :] < D)
    tl.store(dk + at, (own * weight[:, None] - pull).to(dk.dtype.element_ty), mask=mask)
    tl.store(dv + at, dvalue.to(dv.dtype.element_ty), mask=mask)
