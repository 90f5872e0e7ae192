"""How much an op may err: the one budget of the tests and of the verification on a user's GPU.

An op may err at most twice what PyTorch errs by the op's formula in the same dtype, both against float64, plus 1e-6;
in its result, its gradients, and its second derivatives along random directions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

SLACK = {torch.float64: 1e-12}
"""Relative error that is always allowed, by dtype; 1e-6 for the others."""
MOST = 2
"""Times PyTorch's own error in the same dtype."""
GUARD = 64
"""Numbers on each side of a tensor that `guarded` watches."""

Op = Callable[..., Tensor]
Inputs = Sequence[Tensor | None]


class OverBudget(AssertionError):
    """An op errs more than it may; the message says in which result and by how much."""


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """Norm of the difference, relative to that of the truth unless that is 0."""
    actual, truth = actual.detach().double(), truth.detach()
    return float((actual - truth).norm() / (truth.norm() or 1.0))


def compare(name: str, actual: Tensor, own: Tensor, truth: Tensor, slack: float = 0.0) -> None:
    """Hold a tensor to the budget.

    Args:
        name: For the message.
        actual: Ours.
        own: What PyTorch computes by the same formula in the same dtype.
        truth: What it computes in float64 from the same numbers.
        slack: Norm of the error that is allowed beyond the budget.

    Raises:
        OverBudget: A larger error, NaN, or another shape.
    """
    if actual.shape != truth.shape:
        raise OverBudget(f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}")
    error, allowed = relative_error(actual, truth), relative_error(own, truth)
    limit = MOST * allowed + SLACK.get(actual.dtype, 1e-6) + slack / float(truth.detach().norm() or 1.0)
    if not error <= limit:
        raise OverBudget(f"{name}: relative error {error:.2e} in {actual.dtype}, expected at most {limit:.2e}")


def check_op(
    op: Op,
    formula: Op,
    inputs: Inputs,
    *,
    order: int = 2,
    upstream: Tensor | None = None,
    compiled: bool = False,
    cancels: bool = False,
    ulps: int = 0,
) -> Tensor:
    """Compare an op with its formula, itself and its derivatives; the op runs first, so that it cannot look.

    Args:
        op, formula: Of the inputs. The formula is run in their dtype and in float64.
        inputs: Differentiated for, floating.
        order: Of the highest derivative.
        upstream: Gradient of the result, None = random numbers.
        compiled: Whether the op and its gradients are compiled as one graph.
        cancels: Where the truth is 0 the op has terms that cancel, which may leave as much as the largest budget of
            the others.
        ulps: Beyond the budget, units in the last place of the coarsest input, in the largest of all results up to the
            same order: tensors may be so small that PyTorch's own are exact by chance, or sums and slopes whose terms
            cancel.

    Returns:
        The op's result.

    Raises:
        OverBudget: The op errs more than it may, or a gradient has another dtype than its input.
    """
    rng = torch.Generator(torch.get_default_device()).manual_seed(1)
    ours, own = ([None if t is None else t.detach().requires_grad_() for t in inputs] for _ in range(2))
    truths = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    y = op(*ours)
    dy = torch.randn(y.shape, generator=rng).to(y.dtype) if upstream is None else upstream
    cotangents = [torch.randn(t.shape, generator=rng).to(t.dtype) for t in ours if t is not None]
    results = [
        derivatives(op, ours, dy.detach().requires_grad_(), cotangents, order, compiled),
        derivatives(formula, own, dy.detach().requires_grad_(), cotangents, order),
        derivatives(formula, truths, dy.detach().double().requires_grad_(), cotangents, order),
    ]
    given = [f"input {i}" for i, t in enumerate(inputs) if t is not None]
    names = ["result", *(f"gradient of {n}" for n in given), "second of upstream", *(f"second of {n}" for n in given)]
    leaves = [t for t in ours if t is not None]
    count, unit = len(given), ulps * max(torch.finfo(t.dtype).eps for t in leaves or [y])
    norms = [float(t.detach().norm()) for t in results[2]]
    so_far = [1, *[1 + count] * count, *[2 + 2 * count] * (1 + count)]  # up to the same order
    budgets = [MOST * (a - t).norm() + 1e-6 * t.norm() for a, t in zip(*results[1:], strict=True)]
    for name, end, actual, own_result, truth in zip(names, so_far, *results, strict=False):
        if not cancels or truth.any():
            compare(name, actual, own_result, truth, unit * max(norms[:end]))
        elif actual.norm() > max(budgets):
            raise OverBudget(f"{name}: found {float(actual.norm()):.2e}, expected 0")
    for name, gradient, leaf in zip(names[1:], results[0][1:], leaves, strict=False):
        if gradient.dtype != leaf.dtype:
            raise OverBudget(f"{name}: found {gradient.dtype}, expected {leaf.dtype} as the input")
    return y


def derivatives(
    op: Op, inputs: Inputs, upstream: Tensor, cotangents: Sequence[Tensor], order: int, compiled: bool = False
) -> list[Tensor]:
    """The output, its gradients for all inputs, and those of a random projection of the gradients."""
    leaves = [t for t in inputs if t is not None]

    def phase(upstream: Tensor, *inputs: Tensor | None) -> list[Tensor]:
        y = op(*inputs)
        if order == 0:
            return [y]
        there = [t for t in inputs if t is not None]
        first = torch.autograd.grad(y, there, upstream, create_graph=order > 1)
        if order == 1:
            return [y, *first]
        products = [(g * v.to(g.dtype)).double().sum() for g, v in zip(first, cotangents, strict=True)]
        return [y, *first, torch.stack(products).sum()]

    run = torch.compile(phase, fullgraph=True, backend="aot_eager") if compiled else phase
    results = run(upstream, *inputs)
    if order < 2:
        return results
    projection = results.pop()
    options: dict[str, Any] = dict(allow_unused=True, materialize_grads=True)
    return [*results, *torch.autograd.grad(projection, [upstream, *leaves], **options)]


@contextmanager
def guarded() -> Iterator[Callable[[], None]]:
    """New floating memory is full of NaN and lies between guards of NaN: what is not written, or written beside, shows.

    Yields:
        What raises OverBudget where a guard of a tensor that was allocated within the block has changed.
    """
    buffers: list[Tensor] = []

    def between(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(allocate)
        def allocated(*args: Any, **options: Any) -> Tensor:
            made = allocate(*args, **options)
            is_memory = type(made) is Tensor and made.device.type != "meta"  # a compiler's stand-ins are none
            if not (is_memory and made.is_floating_point()):
                return made
            buffer = made.new_full((made.numel() + 2 * GUARD,), torch.nan)
            buffers.append(buffer)
            return buffer.as_strided(made.size(), made.stride(), GUARD).requires_grad_(made.requires_grad)

        return allocated

    def check() -> None:
        for buffer in buffers:
            if not (buffer[:GUARD].isnan().all() and buffer[-GUARD:].isnan().all()):
                raise OverBudget(f"memory beside a tensor of {buffer.numel() - 2 * GUARD} numbers was written")

    with ExitStack() as stack:
        for name in ("empty", "empty_like"):
            stack.enter_context(patch.object(torch, name, between(getattr(torch, name))))
        yield check
