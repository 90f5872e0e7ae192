"""Bias and activation in PyTorch's own functions: gradients of every order, half precision computed in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import wide
from ..selection import register
from .op import Activation


def bias_act(x: Tensor, b: Tensor | None, dim: int, activation: Activation) -> Tensor:
    """`kernels.bias_act`."""
    act, alpha, gain, clamp = activation
    dtype = x.dtype
    x = wide(x)
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).reshape(shape)
    x = activate(x, act, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        # The same as clamp(), with a gradient in one pass instead of four.
        x = F.hardtanh(x, -clamp, clamp)
    return x.to(dtype)


def activate(x: Tensor, act: str, alpha: float) -> Tensor:
    """The activations of `kernels.bias_act`."""
    match act:
        case "linear":
            return x
        case "relu":
            return F.relu(x)
        case "lrelu":
            return F.leaky_relu(x, alpha)
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "elu":
            return F.elu(x)
        case "selu":
            return F.selu(x)
        case "softplus":
            return F.softplus(x, threshold=40)  # of 20, exp(-20) would be missing in float64
        case "swish":
            return F.silu(x)
    raise ValueError(f"act is {act!r}, which is no activation")


register("bias_act", "aten", bias_act)
