"""`kernels.grouped_linear` in PyTorch's own functions: two registered ops that are each other's derivatives.

    y = rows(x, w),    dx = rows(dy, w^T),    dw = weights(dy, x),    db = weights(dy, 1)

On a CPU, where reading the offsets costs nothing, every expert multiplies its own rows. On a GPU reading them would
wait for the device, and could not be captured, so every expert multiplies all rows and the others' are masked: E times
the products, which is why Triton is what a GPU takes. PyTorch's own torch.nn.functional.grouped_mm is left alone: it
takes no float64 and no rows that are not multiples of 16 bytes, and where it has no kernel, as in float32, it reads
the offsets too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..geometry import wide
from ..selection import NAMESPACE, register, without_autocast

Product = Callable[..., Tensor]


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """`kernels.grouped_linear`; an exported program has PyTorch's own functions alone."""
    if torch.compiler.is_exporting():
        return _rows(x, weight, bias, offsets).to(x.dtype)
    return rows_op(x, weight, bias, offsets)


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    x, weight = _for_device(x), _for_device(weight)
    y = x.new_zeros(x.shape[0], weight.shape[1])
    for e, (rows, is_own) in enumerate(_runs(offsets, x)):
        product = x[rows] @ weight[e].mT
        if bias is not None:
            product += bias[e]
        y[rows] = product if is_own is None else torch.where(is_own, product, y[rows])
    return y


def _weights(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    dy, x = _for_device(dy), _for_device(x)
    runs = list(_runs(offsets, x))
    products = [(dy[rows] if own is None else torch.where(own, dy[rows], 0)).mT @ x[rows] for rows, own in runs]
    return torch.stack(products)


def _runs(offsets: Tensor, x: Tensor) -> Iterator[tuple[slice, Tensor | None]]:
    """For every expert the rows that it multiplies, and which of them are its own, [T, 1], None = all."""
    if offsets.device.type == "cpu" and not torch.compiler.is_exporting():
        edges = offsets.tolist()
        if edges[0] != 0 or edges[-1] != len(x) or edges != sorted(edges):
            raise ValueError(f"offsets is {edges}, expected numbers that never fall, from 0 to {len(x)}")
        yield from ((slice(first, last), None) for first, last in zip(edges, edges[1:], strict=False))
        return
    row = torch.arange(x.shape[0], device=x.device)[:, None]
    for e in range(len(offsets) - 1):
        yield slice(None), (row >= offsets[e]) & (row < offsets[e + 1])


def _for_device(x: Tensor) -> Tensor:
    """A GPU accumulates half precision in float32; a CPU is given float32."""
    return wide(x) if x.device.type == "cpu" else x


@torch.library.custom_op(f"{NAMESPACE}::grouped_rows", mutates_args=())
def rows_op(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """[T, O] of x [T, I] and weight [E, O, I]."""
    return without_autocast(_rows, x.device, x, weight, bias, offsets).to(x.dtype)


@torch.library.custom_op(f"{NAMESPACE}::grouped_weights", mutates_args=())
def weights_op(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """[E, O, I] of dy [T, O] and x [T, I]."""
    return without_autocast(_weights, x.device, dy, x, offsets).to(x.dtype)


def fake_rows(x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Tensor) -> Tensor:
    """What `rows_op` returns, without data."""
    return x.new_empty(x.shape[0], weight.shape[1])


def fake_weights(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """What `weights_op` returns, without data."""
    return x.new_empty(offsets.shape[0] - 1, dy.shape[1], x.shape[1])


def register_gradients(rows: Any, weights: Any) -> None:
    """Make each of two ops the derivative of the other; they take what `rows_op` and `weights_op` take."""

    def save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, offsets = inputs
        ctx.save_for_backward(x, weight, offsets)
        ctx.has_bias = bias is not None

    def differentiate_rows(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, offsets = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        dx = rows(dy, weight.mT, None, offsets) if for_x else None
        dw = weights(dy, x, offsets) if for_weight else None
        db = weights(dy, torch.ones_like(x[:, :1]), offsets)[..., 0] if ctx.has_bias and for_bias else None
        return dx, dw, db, None

    def save_weights(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate_weights(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dy, x, offsets = ctx.saved_tensors
        for_dy, for_x, _ = ctx.needs_input_grad
        d_dy = rows(x, g, None, offsets) if for_dy else None
        return d_dy, rows(dy, g.mT, None, offsets) if for_x else None, None

    rows.register_fake(fake_rows)
    weights.register_fake(fake_weights)
    rows.register_autograd(differentiate_rows, setup_context=save_rows)
    weights.register_autograd(differentiate_weights, setup_context=save_weights)


register_gradients(rows_op, weights_op)
register("grouped_linear", "aten", grouped_linear)


@register_flop_formula(torch.ops.smartfast.grouped_rows)
def _rows_flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight[1]


@register_flop_formula(torch.ops.smartfast.grouped_weights)
def _weights_flops(dy: torch.Size, x: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * dy.numel() * x[1]
