"""Fixtures that the tests of the ops share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from smartfast.kernels import use

LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""Largest ||actual - expected|| / ||expected||, by dtype (design.md, section 4)."""


@pytest.fixture(params=["aten", "triton"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each implementation of the ops, Triton in its interpreter or on a GPU."""
    with use(request.param):
        yield request.param


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(0)


@pytest.fixture
def assert_near() -> Callable[..., None]:
    """Compare with a float64 truth by relative norm; the limit is that of the dtype of `actual` unless given."""

    def check(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
        assert actual.shape == expected.shape
        error = (actual.double() - expected.double()).norm() / expected.double().norm()
        assert error <= LIMIT[dtype or actual.dtype], f"relative error {error:.2e} in {dtype or actual.dtype}"

    return check


@pytest.fixture
def second_order() -> Callable[..., list[Tensor]]:
    """Output, gradient for x, and gradients of a random projection of that gradient, as in R1 and path length."""

    def compute(
        op: Callable[..., Tensor], x: Tensor, others: list[Tensor], upstream: Tensor, v: Tensor
    ) -> list[Tensor]:
        y = op(x, *others)
        (dx,) = torch.autograd.grad(y, x, upstream, create_graph=True)
        rest = torch.autograd.grad((dx * v).sum(), [upstream, *others], allow_unused=True)
        return [y, dx, *(torch.zeros(()) if g is None else g for g in rest)]

    return compute
