"""The error budget that all tests of the ops share sees what it must see, and means the same on every machine."""

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@triton.jit
def copy_kernel(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


def test_bfloat16_is_rounded(rng: torch.Generator) -> None:
    x = torch.cat([torch.randn(60, generator=rng), torch.tensor([0.0, 1.0, torch.inf, -1e-40])])
    y = torch.empty(64, dtype=torch.bfloat16)
    copy_kernel[(1,)](x, y, SIZE=64)
    assert torch.equal(y, x.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", ["result", "gradient of input 0", "gradient of input 1", "second of input 1"])
def test_errors_are_seen(
    wrong: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    """Of 3 %, in the result, a gradient or a second derivative alone."""
    x, b = (torch.randn(8, generator=rng).to(dtype) for _ in range(2))

    def formula(x: Tensor, b: Tensor) -> Tensor:
        return x * b.square()

    def op(x: Tensor, b: Tensor) -> Tensor:
        y, off = formula(x, b), 0.03 * b
        if wrong == "result":
            return y * 1.03
        if wrong == "gradient of input 0":
            return y + 0.03 * (x - x.detach()) * b.detach()
        if wrong == "gradient of input 1":
            return y + x.detach() * (off - off.detach())
        return y + 50 * x.detach() * (off - off.detach()).square()

    assert_within_budget(formula, formula, [x, b])
    for ulps in (0, 16) if dtype in (torch.float64, torch.float32) else (0,):
        with pytest.raises(AssertionError, match=f"^{wrong}: relative error"):
            assert_within_budget(op, formula, [x, b], ulps=ulps)


def test_rounding_counts_in_the_terms_that_cancel(assert_within_budget: Callable[..., Tensor]) -> None:
    """The slope of tanh is 1 - tanh^2, of which little is left: in float64 as little as the rounding of 1."""
    x = torch.linspace(14, 18, 9, dtype=torch.float64)
    formulas = [torch.tanh, lambda x: (1 - (-2 * x).exp()) / (1 + (-2 * x).exp())]
    assert_within_budget(*formulas, [x], ulps=16)
    with pytest.raises(AssertionError, match="^gradient of input 0: relative error"):
        assert_within_budget(*formulas, [x])
