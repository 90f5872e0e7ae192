"""The formula of `kernels.grouped_linear`, in the dtype of its arguments: every row times a copy of its weight."""

import torch
from torch import Tensor


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """y[t] = weight[e] x[t] + bias[e]."""
    expert = torch.repeat_interleave(torch.arange(len(weight), device=x.device), offsets.diff())
    y = torch.einsum("toi,ti->to", weight[expert], x)
    return y if bias is None else y + bias[expert]
