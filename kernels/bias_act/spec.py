"""The formula of `kernels.bias_act`, in the dtype of its arguments."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .op import Activation

FORMULAS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda v, alpha: v,
    "relu": lambda v, alpha: torch.where(v > 0, v, 0 * v),
    "lrelu": lambda v, alpha: torch.where(v > 0, v, alpha * v),
    "tanh": lambda v, alpha: torch.tanh(v),
    "sigmoid": lambda v, alpha: torch.sigmoid(v),
    "elu": lambda v, alpha: F.elu(v),
    "selu": lambda v, alpha: F.selu(v),
    "softplus": lambda v, alpha: F.softplus(v, threshold=40),
    "swish": lambda v, alpha: F.silu(v),
}


def bias_act(x: Tensor, b: Tensor | None, dim: int, activation: Activation) -> Tensor:
    """clamp(gain * act(x + b))."""
    v = x if b is None else (x.movedim(dim, -1) + b).movedim(-1, dim)
    y = FORMULAS[activation.act](v, activation.alpha) * activation.gain
    return y if activation.clamp is None else y.clamp(-activation.clamp, activation.clamp)
