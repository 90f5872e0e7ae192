"""`kernels.l2_attention` in PyTorch's own functions, in chunks: memory does not grow with the square of the tokens.

Three registered ops, the result, its gradients and theirs, because only an op of its own keeps a compiler from storing
every chunk for the backward pass. Each walks over heads and queries and holds `ELEMENTS` logits at a time. With p and
the distances d of a chunk, g = do v^T, and w = -scale * p (g - sum_j p g) / d, which is 0 where d is,

    dv = p^T do,    dq_i = sum_j w_ij (q_i - k_j),    dk_j = -sum_i w_ij (q_i - k_j)
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..geometry import wide
from ..selection import NAMESPACE, register, without_autocast
from .op import empty_by_token

ELEMENTS = 1 << 20
"""Logits of a chunk; few enough to stay in a cache."""
TIE = 2.0**-44
"""Squared distance relative to |q|^2 + |k|^2, in float64, up to which rounding alone makes it: 2 ulps in float32."""
PRODUCTS, BACKWARD_PRODUCTS, SECOND_PRODUCTS = 2, 5, 12
"""Matrix products between tokens that a pass needs: distances and values; with what the gradients add; the second."""


class _Chunk(NamedTuple):
    """Some queries of some heads and all keys, wide; distance is [heads, queries, keys]."""

    heads: slice
    rows: tuple[slice, slice]
    q: Tensor
    k: Tensor
    v: Tensor
    distance: Tensor


def l2_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`kernels.l2_attention`; an exported program has PyTorch's own functions alone, and all logits at a time."""
    if torch.compiler.is_exporting():
        logits = _distance(*(wide(t).flatten(0, 1) for t in (q, k))) * -scale
        return (logits.softmax(dim=-1) @ wide(v).flatten(0, 1)).to(q.dtype).unflatten(0, q.shape[:2])
    return l2_attention_op(q, k, v, scale)[0]


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = _by_head(q, torch.zeros_like), wide(q.new_empty(q.shape[:3])).flatten(0, 1)
    for chunk in _chunks(q, k, v):
        logits = chunk.distance * -scale
        lse[chunk.rows] = logits.logsumexp(dim=-1)
        out[chunk.rows] = ((logits - lse[chunk.rows][..., None]).exp() @ chunk.v).to(out.dtype)
    return _by_token(out, q), lse.unflatten(0, q.shape[:2])


def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    do, lse = wide(do).flatten(0, 1), lse.flatten(0, 1)
    delta = (do * wide(out).flatten(0, 1)).sum(dim=-1, keepdim=True)
    dq, dk, dv = (wide(_by_head(t, torch.zeros_like)) for t in (q, k, v))
    for chunk in _chunks(q, k, v):
        p = (chunk.distance * -scale - lse[chunk.rows][..., None]).exp()
        upstream = do[chunk.rows]
        dv[chunk.heads] += p.mT @ upstream
        w = _over_distance(p * (upstream @ chunk.v.mT - delta[chunk.rows]) * -scale, chunk.distance)
        dq[chunk.rows] = _pull(w, chunk.q, chunk.k)
        dk[chunk.heads] += _pull(w.mT, chunk.k, chunk.q)
    return tuple(_by_token(gradient, t) for gradient, t in ((dq, q), (dk, k), (dv, v)))  # type: ignore[return-value]


def _second(
    a: Tensor, b: Tensor, c: Tensor, do: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for do, q, k and v of G = <a, dq> + <b, dk> + <c, dv>.

    G = <do, out'>, where out' is the derivative of out along (a, b, c), and in a row of logits l = -scale * d,

        l' = -scale (q - k) (a - b) / d,    p' = p (l' - m),  m = sum_j p l',    out' = p' v + p c
        dG/dl = p (r - sum_j p r),    r = l' (g - delta) - m g + do c^T,    delta = sum_j p g
    """
    a, b, c, do = (wide(t).flatten(0, 1) for t in (a, b, c, do))
    lse = lse.flatten(0, 1)
    d_do, dq, dk, dv = (wide(_by_head(t, torch.zeros_like)) for t in (q, q, k, v))
    for heads, rows, q_, k_, v_, distance in _chunks(q, k, v):
        a_, b_, c_, do_ = a[rows], b[heads], c[heads], do[rows]
        p = (distance * -scale - lse[rows][..., None]).exp()
        along = (q_ * a_).sum(-1)[..., None] + (k_ * b_).sum(-1)[:, None] - q_ @ b_.mT - a_ @ k_.mT  # (q - k) (a - b)
        along = _over_distance(along, distance)
        tangent = along * -scale
        mean = (p * tangent).sum(dim=-1, keepdim=True)
        dp = p * (tangent - mean)
        g = do_ @ v_.mT
        centred = g - (p * g).sum(dim=-1, keepdim=True)
        r = tangent * centred - mean * g + do_ @ c_.mT
        for_logits = p * (r - (p * r).sum(dim=-1, keepdim=True))
        u = _over_distance(p * centred * -scale, distance)
        w = _over_distance(for_logits * -scale, distance) - _over_distance(u * along, distance)
        d_do[rows] = dp @ v_ + p @ c_
        dq[rows] = _pull(w, q_, k_) + _pull(u, a_, b_)
        dk[heads] += _pull(w.mT, k_, q_) + _pull(u.mT, b_, a_)
        dv[heads] += dp.mT @ do_
    return tuple(_by_token(g, q) for g in (d_do, dq, dk, dv))  # type: ignore[return-value]


def _chunks(q: Tensor, k: Tensor, v: Tensor) -> Iterator[_Chunk]:
    heads, (queries, keys) = q.shape[0] * q.shape[1], (q.shape[2], k.shape[2])
    some_heads = min(max(ELEMENTS // max(queries * keys, 1), 1), max(heads, 1))
    some_queries = min(max(ELEMENTS // (some_heads * keys), 1), max(queries, 1))
    q, k, v = (wide(t).flatten(0, 1) for t in (q, k, v))
    for first in range(0, heads, some_heads):
        group = slice(first, first + some_heads)
        for start in range(0, queries, some_queries):
            rows = (group, slice(start, start + some_queries))
            yield _Chunk(group, rows, q[rows], k[group], v[group], _distance(q[rows], k[group]))


def _distance(q: Tensor, k: Tensor) -> Tensor:
    """||q - k||, [heads, queries, keys].

    From products, which cancel where q and k are near: in float64 what is left is as exact as float32 can be told.
    float64 itself takes differences, on a CPU ten times slower.
    """
    if q.dtype == torch.float64:
        return torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist")
    q, k = q.double(), k.double()
    total = q.square().sum(dim=-1)[..., None] + k.square().sum(dim=-1)[:, None]
    square = torch.baddbmm(total, q, k.mT, alpha=-2)
    return torch.where(square > TIE * total, square, 0).float().sqrt()


def _over_distance(values: Tensor, distance: Tensor) -> Tensor:
    """values / distance, 0 at a distance of 0."""
    return torch.where(distance > 0, values / distance, 0)


def _pull(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """sum_j w_ij (x_i - y_j). The mean of y is taken off both, because what they have in common only adds rounding."""
    middle = y.mean(dim=1, keepdim=True)
    return (x - middle) * w.sum(dim=-1, keepdim=True) - w @ (y - middle)


def _by_head(like: Tensor, allocate: Callable[..., Tensor]) -> Tensor:
    return allocate(like, memory_format=torch.contiguous_format).flatten(0, 1)


def _by_token(values: Tensor, like: Tensor) -> Tensor:
    """[N * heads, L, D] as a result is stored, in the dtype of `like`."""
    values = values.unflatten(0, like.shape[:2])
    return empty_by_token(values.to(like.dtype)).copy_(values)


@torch.library.custom_op(f"{NAMESPACE}::l2_attention_in_chunks", mutates_args=())
def l2_attention_op(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The result, and the logarithm of the sum of exp(-scale * distance) of every query, [N, heads, L], wide."""
    return without_autocast(_forward, q.device, q, k, v, scale)


@torch.library.custom_op(f"{NAMESPACE}::l2_attention_in_chunks_gradients", mutates_args=())
def gradients_op(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for q, k and v."""
    return without_autocast(_backward, q.device, do, q, k, v, out, lse, scale)


@torch.library.custom_op(f"{NAMESPACE}::l2_attention_in_chunks_second", mutates_args=())
def second_op(
    a: Tensor, b: Tensor, c: Tensor, do: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for do, q, k and v from those of the gradients for q, k and v."""
    return without_autocast(_second, q.device, a, b, c, do, q, k, v, lse, scale)


@second_op.register_fake
def _(
    a: Tensor, b: Tensor, c: Tensor, do: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_by_token(q), empty_by_token(q), empty_by_token(k), empty_by_token(v)


def register_gradients(forward: Any, gradients: Any) -> None:
    """Register the shapes and derivatives of two ops that take and return what the first two of this module do."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.mark_non_differentiable(output[1])

    def differentiate(ctx: Any, do: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return *gradients(do, *ctx.saved_tensors, ctx.scale), None

    def save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        do, q, k, v, _, lse, ctx.scale = inputs
        ctx.save_for_backward(do, q, k, v, lse)

    def differentiate_gradients(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        # out and lse count as the functions of q, k and v that they are.
        return *second_op(a, b, c, *ctx.saved_tensors, ctx.scale), None, None, None

    forward.register_fake(lambda q, k, v, scale: (empty_by_token(q), wide(q.new_empty(q.shape[:3]))))
    gradients.register_fake(lambda do, q, k, v, *_: tuple(map(empty_by_token, (q, k, v))))
    forward.register_autograd(differentiate, setup_context=save)
    gradients.register_autograd(differentiate_gradients, setup_context=save_gradients)


register_gradients(l2_attention_op, gradients_op)
register("l2_attention", "aten", l2_attention)


def _flops(products: int, q: torch.Size, k: torch.Size) -> int:
    return products * 2 * q.numel() * k[2]


@register_flop_formula(torch.ops.smartfast.l2_attention_in_chunks)
def _forward_flops(q: torch.Size, k: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(PRODUCTS, q, k)


@register_flop_formula(torch.ops.smartfast.l2_attention_in_chunks_gradients)
def _gradient_flops(do: torch.Size, q: torch.Size, k: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(BACKWARD_PRODUCTS, q, k)


@register_flop_formula(torch.ops.smartfast.l2_attention_in_chunks_second)
def _second_flops(
    a: torch.Size, b: torch.Size, c: torch.Size, do: torch.Size, q: torch.Size, k: torch.Size, *_: Any, **__: Any
) -> int:
    return _flops(SECOND_PRODUCTS, q, k)
