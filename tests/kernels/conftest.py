"""Fixtures that the tests of the ops share; among them the one error budget of all of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from smartfast.kernels import use
from smartfast.kernels.budget import check_op, compare, guarded


@pytest.fixture(params=["aten", "triton"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each implementation of the ops, Triton in its interpreter or on a GPU."""
    with use(request.param):
        yield request.param


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(0)


@pytest.fixture
def poisoned() -> Iterator[ExitStack]:
    """What a kernel does not write, or writes beside its tensors, shows; until the stack is closed."""
    with ExitStack() as guards:
        check = guards.enter_context(guarded())
        yield guards
        check()


@pytest.fixture
def traced_autograd() -> Iterator[None]:
    """torch.autograd.grad inside a compiled function needs this private switch."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.fixture
def within_budget() -> Callable[..., None]:
    """`compare`, for tests that compute their tensors themselves."""
    return compare


@pytest.fixture
def assert_within_budget() -> Callable[..., Tensor]:
    """`check_op`; an op compiled with its gradients needs `traced_autograd`."""
    return check_op
