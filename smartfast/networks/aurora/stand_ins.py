"""Plain forms of the two ops of Aurora's attention and experts."""

import torch
from torch import Tensor


def l2_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attention by Euclidean distance: softmax over the keys of -scale * |q - k|, times v.

    Distances are at least in float32, and have the gradient 0 where they are 0.

    Args:
        q, k, v: [N, H, L, D].
        scale: Of the distances.

    Returns:
        [N, H, L, D] in the dtype of v.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    distance = torch.cdist(q.to(wide), k.to(wide))
    return ((-scale * distance).softmax(dim=3) @ v.to(wide)).to(v.dtype)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """A linear layer of its own for each group of rows.

    Args:
        x: [T, I], rows in the order of their groups.
        weight: [E, O, I], in the dtype of x.
        bias: [E, O] or None.
        offsets: Whole numbers [E + 1]; rows offsets[e] to offsets[e + 1] are of group e.

    Returns:
        [T, O].
    """
    row = torch.arange(len(x), device=x.device)
    total = x.new_zeros(len(x), weight.shape[1])
    for group in range(len(weight)):
        inside = ((row >= offsets[group]) & (row < offsets[group + 1]))[:, None]
        y = torch.nn.functional.linear(x, weight[group], None if bias is None else bias[group])
        total = torch.where(inside, y, total)
    return total
