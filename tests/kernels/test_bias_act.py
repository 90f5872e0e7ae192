"""Bias and activation against textbook formulas."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import bias_act

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS = {
    "linear": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "lrelu": lambda x: torch.maximum(x, 0.2 * x),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "selu": lambda x: SELU_SCALE * torch.where(x > 0, x, SELU_ALPHA * (x.exp() - 1)),
    "softplus": lambda x: (1 + x.exp()).log(),
    "swish": lambda x: x / (1 + (-x).exp()),
}
DEFAULT_GAIN = {"relu": sqrt(2), "lrelu": sqrt(2), "swish": sqrt(2)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", FORMULAS)
def test_value_and_gradients(
    act: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    x = torch.randn(3, 5, 7, 2, generator=rng).to(dtype).requires_grad_()
    b = torch.randn(5, generator=rng).to(dtype).requires_grad_()
    wide_x, wide_b = (t.detach().double().requires_grad_() for t in (x, b))
    y = bias_act(x, b, act=act)
    expected = FORMULAS[act](wide_x + wide_b[:, None, None]) * DEFAULT_GAIN.get(act, 1)
    assert y.dtype == dtype
    assert_near(y, expected)
    upstream = torch.randn(y.shape, generator=rng).to(dtype)
    gradients = torch.autograd.grad(y, [x, b], upstream)
    truths = torch.autograd.grad(expected, [wide_x, wide_b], upstream.double())
    for gradient, truth in zip(gradients, truths, strict=True):
        assert gradient.dtype == dtype
        assert_near(gradient, truth)


@pytest.mark.parametrize("act", FORMULAS)
@pytest.mark.parametrize("clamp", [None, 0.7], ids=["no clamp", "clamp"])
def test_second_order(act: str, clamp: float | None, rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True)

    def op(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=clamp)

    assert gradcheck(op, (x, b))
    assert gradgradcheck(op, (x, b))


@pytest.mark.parametrize(("shape", "dim"), [((6,), 0), ((4, 3), 0), ((4, 3), -1), ((2, 3, 5, 4), 2)], ids=str)
def test_dim(shape: tuple[int, ...], dim: int, rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    x, b = torch.randn(shape, generator=rng), torch.randn(shape[dim], generator=rng)
    expected = (x.movedim(dim, -1) + b).movedim(-1, dim).tanh() * 2
    assert_near(bias_act(x, b, dim=dim, act="tanh", gain=2.0), expected.double())


def test_slope_gain_and_clamp() -> None:
    x = torch.tensor([[-100.0, -1.0, 0.0, 1.0, 100.0]])
    y = bias_act(x, act="lrelu", alpha=0.1, gain=3.0, clamp=20.0)
    assert torch.allclose(y, torch.tensor([[-20.0, -0.3, 0.0, 3.0, 20.0]]))


def test_clamp_stops_the_gradient_outside_only() -> None:
    x = torch.tensor([[-3.0, -1.0, 1.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(bias_act(x, gain=2.0, clamp=4.0), x, torch.tensor([[5.0, 6.0, 7.0, 8.0]]))
    assert gradient.tolist() == [[0.0, 12.0, 14.0, 0.0]]


def test_channels_last_strided_and_empty(rng: torch.Generator) -> None:
    x, b = torch.randn(2, 4, 5, 6, generator=rng), torch.randn(4, generator=rng)
    expected = bias_act(x, b, act="swish")
    y = bias_act(x.to(memory_format=torch.channels_last), b, act="swish")
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(y, expected)
    assert torch.allclose(bias_act(x[:, :, ::2, 1:], b, act="swish"), expected[:, :, ::2, 1:])
    assert bias_act(x[:0], b, act="relu").shape == (0, 4, 5, 6)


def test_not_a_number_stays_visible() -> None:
    assert bias_act(torch.tensor([[float("nan")]]), act="lrelu", clamp=1.0).isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(act="gelu"), "act is 'gelu', expected one of linear, relu"),
        (dict(clamp=-1.0), "clamp is -1.0"),
        (dict(b=torch.zeros(3)), "b has shape"),
        (dict(b=torch.zeros(4), dim=5), "b has shape"),
    ],
    ids=["act", "clamp", "b", "dim"],
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_act(torch.zeros(2, 4), **options)
