"""The formula of `kernels.l2_attention`, in the dtype of its arguments, with every difference and p in memory."""

import torch
from torch import Tensor


def l2_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """out = softmax(-scale * ||q - k||) v."""
    square = (q[:, :, :, None] - k[:, :, None]).square().sum(dim=-1)
    is_apart = square > 0
    distance = torch.where(is_apart, torch.where(is_apart, square, 1).sqrt(), 0)
    return (-scale * distance).softmax(dim=-1) @ v
