"""`kernels.l2_attention` on Triton: result and gradients in three kernels; the second derivative is aten's."""

import torch
from torch import Tensor

from ..runtime import NAMESPACE
from ..selection import register
from .aten import register_gradients
from .kernels import launch_forward, launch_gradients


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
