"""`kernels.grouped_linear` on Triton: the two ops of aten.py, with the experts' runs found by the kernels.

Half precision is multiplied on tensor cores and added up in float32; float32 in full, or as TF32 where
torch.backends.cuda.matmul.allow_tf32 says so, as PyTorch's own products are.
"""

import torch
from torch import Tensor

from ..runtime import NAMESPACE
from ..selection import register
from .aten import register_gradients
from .kernels import launch_rows, launch_weights


@torch.library.custom_op(f"{NAMESPACE}::grouped_linear", mutates_args=())
def rows_op(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    return launch_rows(x, weight, bias, offsets, _precision())


@torch.library.custom_op(f"{NAMESPACE}::grouped_linear_weights", mutates_args=())
def weights_op(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return launch_weights(dy, x, offsets, _precision())


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """`kernels.grouped_linear`."""
    return rows_op(x, weight, bias, offsets)


register_gradients(rows_op, weights_op)
register("grouped_linear", "triton", grouped_linear)
