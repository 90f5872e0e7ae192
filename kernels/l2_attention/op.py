"""Attention by distance instead of inner product (Kim, Papamakarios and Mnih, "The Lipschitz constant of
self-attention", arXiv 2006.04710; with the distance not squared in Aurora, arXiv 2309.03904).

    p[i, j] = softmax over j of -scale * ||q_i - k_j||,    out_i = sum_j p[i, j] v_j

The matrix p, as large as the square of the tokens, is never stored: the forward pass keeps one number for a query,
the logarithm of its softmax's denominator, and the backward pass computes p again, tile by tile.

A distance of 0, as every token has to itself where queries are keys, passes no gradient, neither the first nor the
second. Gradients flow to q, k and v and may be differentiated once more, not twice.
"""

import torch
from torch import Tensor

from ..selection import dispatch, public


@public()
def l2_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, impl: str | None = None) -> Tensor:
    """Attend to the values whose keys are near.

    Args:
        q: Queries [N, heads, L, D], any floating dtype, any strides. Distances and the softmax are computed in float32,
            float64 if q is.
        k, v: Keys and values [N, heads, L', D] in the dtype of q.
        scale: Of the distances, usually D^-0.5.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [N, heads, L, D] in the dtype of q, stored as [N, L, heads, D], so that merging the heads is a view.

    Raises:
        ValueError: Shapes or dtypes that do not fit; no keys.
    """
    if q.ndim != 4 or not q.is_floating_point():
        raise ValueError(f"q is {q.dtype} {tuple(q.shape)}, expected floating point [N, heads, L, D]")
    n, heads, _, d = q.shape
    for name, tensor, tokens in (("k", k, "L'"), ("v", v, k.shape[2] if k.ndim == 4 else "L'")):
        fits = tensor.ndim == 4 and (tensor.shape[0], tensor.shape[1], tensor.shape[3]) == (n, heads, d)
        if not fits or tensor.dtype != q.dtype or tokens not in ("L'", tensor.shape[2]):
            expected = f"{q.dtype} [{n}, {heads}, {tokens}, {d}]"
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {expected}")
    if k.shape[2] == 0 or d == 0:
        raise ValueError(f"k is {k.dtype} {tuple(k.shape)}, expected at least one key of one number")
    return dispatch("l2_attention", q.device, q, k, v, float(scale), impl=impl)


def empty_by_token(like: Tensor) -> Tensor:
    """Memory for a result of the shape and dtype of `like`, [N, heads, L, D] stored as [N, L, heads, D]."""
    n, heads, tokens, d = like.shape
    return torch.empty((n, tokens, heads, d), dtype=like.dtype, device=like.device).transpose(1, 2)
