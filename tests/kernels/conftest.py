"""Fixtures that the tests of the ops share; among them the one error budget of all of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from smartfast.kernels import INTERPRETED, use

SLACK = {torch.float64: 1e-12}
"""Relative error that is always allowed, by dtype; 1e-6 for the others."""
MOST = 2
"""Times PyTorch's own error in the same dtype."""

Op = Callable[..., Tensor]
Inputs = Sequence[Tensor | None]


@pytest.fixture(params=["aten", "triton"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each implementation of the ops, Triton in its interpreter or on a GPU."""
    with use(request.param):
        yield request.param


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _rounded_bfloat16() -> Iterator[None]:
    """Triton's interpreter rounds float32 to bfloat16 as a GPU does; by itself it cuts the last bits off."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source.name, target.name) != ("fp32", "bf16"):
            return convert(values, source, target, mode)
        bits = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).view(torch.int16)
        return bits.numpy().view(np.uint16).reshape(values.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", rounded)
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is full of NaN, so that what a kernel does not write shows."""

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(allocate)
        def poisoned(*args: Any, **options: Any) -> Tensor:
            made = allocate(*args, **options)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture
def traced_autograd() -> Iterator[None]:
    """torch.autograd.grad inside a compiled function needs this private switch."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


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
    """
    assert actual.shape == truth.shape, name
    error, allowed = relative_error(actual, truth), relative_error(own, truth)
    limit = MOST * allowed + SLACK.get(actual.dtype, 1e-6) + slack / float(truth.norm() or 1.0)
    assert error <= limit, f"{name}: relative error {error:.2e} in {actual.dtype}, expected at most {limit:.2e}"


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
    options = dict(allow_unused=True, materialize_grads=True)
    return [*results, *torch.autograd.grad(projection, [upstream, *leaves], **options)]


@pytest.fixture
def within_budget() -> Callable[..., None]:
    """`compare`, for tests that compute their tensors themselves."""
    return compare


@pytest.fixture
def assert_within_budget() -> Callable[..., Tensor]:
    """Compare an op with its formula, itself and its derivatives, and return the op's result.

    It may err at most twice what the formula errs in the same dtype against float64, plus 1e-6.

    order: Of the highest derivative. upstream: Gradient of the result, None = random numbers. compiled: Whether the op
    and its gradients are compiled as one graph; needs `traced_autograd`. cancels: Where the truth is 0 the op has terms
    that cancel, which may leave as much as the largest budget of the others. ulps: Beyond the budget, units in the last
    place of the coarsest input, in the largest of all results up to the same order: tensors may be so small that
    PyTorch's own are exact by chance, or sums and slopes whose terms cancel.
    """

    def check(
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
        names = [
            "result",
            *(f"gradient of {n}" for n in given),
            "second of upstream",
            *(f"second of {n}" for n in given),
        ]
        count, unit = len(given), ulps * max(torch.finfo(t.dtype).eps for t in ours if t is not None)
        norms = [float(t.detach().norm()) for t in results[2]]
        so_far = [1, *[1 + count] * count, *[2 + 2 * count] * (1 + count)]  # up to the same order
        budgets = [MOST * (a - t).norm() + 1e-6 * t.norm() for a, t in zip(*results[1:], strict=True)]
        for name, end, actual, own, truth in zip(names, so_far, *results, strict=False):
            if cancels and not truth.any():
                assert actual.norm() <= max(budgets), name
            else:
                compare(name, actual, own, truth, unit * max(norms[:end]))
        leaves = [t for t in ours if t is not None]
        for name, gradient, leaf in zip(names[1:], results[0][1:], leaves, strict=False):
            assert gradient.dtype == leaf.dtype, name
        return y

    return check
