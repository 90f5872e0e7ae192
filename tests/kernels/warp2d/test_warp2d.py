"""Affine warps against the formula, by both implementations."""

import math
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smartfast.augment.geometry import SYM6
from smartfast.kernels import INTERPRETED, warp2d
from smartfast.kernels.warp2d import spec

pytestmark = pytest.mark.usefixtures("implementation")

F = torch.tensor(SYM6) / sum(SYM6)
SLOW = "SMARTFAST_TEST_SLOW" in os.environ
DTYPES = [torch.float64, torch.float32, torch.float16, *([torch.bfloat16] if SLOW else [])]
CASES = [*((dtype, False) for dtype in DTYPES), *([(torch.float32, True)] if SLOW else [])]
"""Compiled it is part of tests/augment/test_images.py; Triton's interpreter takes half a minute for it."""
ODD = (2, 2, 3, 5)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter takes as long for a program of many points as for one of few."""
    if INTERPRETED:
        from smartfast.kernels.warp2d import triton

        monkeypatch.setattr(triton, "POINTS", 256)


def matrices(n: int, rng: torch.Generator, spread: float = 0.3, shift: float = 2.0) -> Tensor:
    """Near the identity, the first exactly a quarter turn; all exact in float32."""
    linear = torch.eye(2) + spread * torch.randn(n, 2, 2, generator=rng)
    matrix = torch.cat([linear, shift * torch.randn(n, 2, 1, generator=rng)], dim=2)
    if n:
        matrix[0] = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    return matrix


def randn(rng: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=rng).to(dtype)


@pytest.mark.sample(4)
@pytest.mark.parametrize(("dtype", "compiled"), CASES, ids=str)
def test_values_and_derivatives(
    dtype: torch.dtype,
    compiled: bool,
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
    traced_autograd: None,
) -> None:
    matrix = matrices(2, rng).to(torch.promote_types(dtype, torch.float32))
    x = randn(rng, *ODD, dtype=dtype)
    assert_within_budget(
        lambda x: warp2d(x, matrix, F),
        lambda x: spec.warp2d(x, matrix, F),
        [x.requires_grad_()],
        order=2,
        compiled=compiled,
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("shape", [(1, 3, 4, 3), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize(("spread", "shift"), [(0.0, 0.0), (1.0, 5.0), (3.0, 1e4)], ids=str)
def test_shapes_and_far_places(
    shape: tuple[int, ...],
    spread: float,
    shift: float,
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
) -> None:
    matrix = matrices(shape[0], rng, spread, shift).double()
    x = randn(rng, *shape, dtype=torch.float64).requires_grad_()
    assert_within_budget(lambda x: warp2d(x, matrix, F), lambda x: spec.warp2d(x, matrix, F), [x], order=1)


@pytest.mark.sample(2)
def test_layouts_and_no_image(rng: torch.Generator) -> None:
    matrix, x = matrices(2, rng), randn(rng, *ODD)
    y = warp2d(x, matrix, F)
    for strided in (
        x.to(memory_format=torch.channels_last),
        torch.cat([x, x], 3)[..., :5],
        torch.cat([x, x], 1)[:, :2],
    ):
        torch.testing.assert_close(warp2d(strided, matrix, F), y, rtol=0, atol=0)
    assert warp2d(x[:0], matrix[:0], F).shape == (0, *ODD[1:])


@pytest.mark.sample(2)
def test_gradient_does_not_depend_on_the_batch(rng: torch.Generator) -> None:
    matrix, x = matrices(2, rng), randn(rng, *ODD).requires_grad_()
    dy = randn(rng, *ODD) * torch.tensor([1e-6, 1e5])[:, None, None, None]
    (together,) = torch.autograd.grad(warp2d(x, matrix, F), x, dy)
    apart = [torch.autograd.grad(warp2d(x[i : i + 1], matrix[i : i + 1], F), x, dy[i : i + 1])[0][i] for i in range(2)]
    assert torch.equal(together, torch.stack(apart))


def test_gradients_that_are_not_finite_stay_so(rng: torch.Generator) -> None:
    matrix, x = matrices(2, rng), randn(rng, 2, 1, 3, 3).requires_grad_()
    dy = torch.ones(2, 1, 3, 3)
    dy[1, 0, 1, 1] = math.inf
    (dx,) = torch.autograd.grad(warp2d(x, matrix, F), x, dy)
    assert dx[0].isfinite().all()
    assert not dx[1].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, m, f: (x[0], m, f), "x is"),
        (lambda x, m, f: (x, m[:1], f), "matrix is"),
        (lambda x, m, f: (x, m.half(), f), "matrix is"),
        (lambda x, m, f: (x, m, f[:6]), "f has shape"),
        (lambda x, m, f: (x[:, :0], m, f), "x is"),
    ],
)
def test_what_does_not_fit(change: Callable[..., tuple[Tensor, ...]], message: str, rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        warp2d(*change(randn(rng, *ODD), matrices(2, rng), F))
