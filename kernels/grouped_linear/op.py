"""The linear layers of a mixture of experts: rows sorted by expert, each run of rows times the weight of its own.

    y[t] = weight[e] x[t] + bias[e],    offsets[e] <= t < offsets[e + 1]

Shapes do not depend on how many rows an expert has, and nobody but the kernels reads the offsets, so the op runs in a
captured graph. Gradients flow to x, the weight and the bias, to any order: the gradient for x is the op itself with
the weights transposed, that for the weights an op of its own, and a derivative of either is one of the two again.
"""

import torch
from torch import Tensor

from ..selection import dispatch, public


@public()
def grouped_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor, *, impl: str | None = None
) -> Tensor:
    """Apply to each row the linear layer of its expert.

    Args:
        x: [T, I], any floating dtype, rows of the same expert side by side. Half precision accumulates in float32.
        weight: [E, O, I] in the dtype of x, any strides.
        bias: [E, O] in the dtype of x, or None.
        offsets: int64 [E + 1] on the device of x, from 0 to T, never falling: expert e has the rows from offsets[e] to
            before offsets[e + 1], maybe none. A CPU checks their values, a GPU does not.
        impl: "triton", "aten" or "auto" for this call; None = the current choice, see `use`.

    Returns:
        [T, O] in the dtype of x.

    Raises:
        ValueError: Shapes or dtypes that do not fit; on a CPU offsets that are not as above.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}, expected floating point [T, I]")
    if weight.ndim != 3 or weight.shape[0] == 0 or weight.shape[2] != x.shape[1] or weight.dtype != x.dtype:
        raise ValueError(f"weight is {weight.dtype} {tuple(weight.shape)}, expected {x.dtype} [E, O, {x.shape[1]}]")
    if bias is not None and (bias.shape != weight.shape[:2] or bias.dtype != x.dtype):
        expected = f"{x.dtype} {tuple(weight.shape[:2])}"
        raise ValueError(f"bias is {bias.dtype} {tuple(bias.shape)}, expected {expected}")
    if offsets.dtype != torch.int64 or offsets.shape != (weight.shape[0] + 1,):
        expected = f"int64 {(weight.shape[0] + 1,)}"
        raise ValueError(f"offsets is {offsets.dtype} {tuple(offsets.shape)}, expected {expected}")
    return dispatch("grouped_linear", x.device, x, weight, bias, offsets, impl=impl)
