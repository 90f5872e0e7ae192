"""Bias and activation against textbook formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import ACTIVATIONS, Activation, bias_act
from smartfast.kernels.bias_act import spec
from smartfast.kernels.bias_act.triton import bias_act_backward, bias_act_op, launch_backward, launch_forward
from smartfast.kernels.runtime import INTERPRETED, record_launches

pytestmark = pytest.mark.usefixtures("implementation")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
TEXTBOOK = {
    "linear": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "lrelu": lambda x: torch.maximum(x, 0.2 * x),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1)),
    "softplus": lambda x: (1 + x.exp()).log(),
    "swish": lambda x: x / (1 + (-x).exp()),
}


def formula(dim: int = 1, act: str = "linear", **numbers: Any) -> Callable[[Tensor, Tensor], Tensor]:
    activation = ACTIVATIONS[act]._replace(**numbers)
    return lambda x, b=None: spec.bias_act(x, b, dim, activation)


@pytest.mark.parametrize("act", TEXTBOOK)
def test_spec_is_the_textbook(act: str, rng: torch.Generator) -> None:
    x = torch.randn(100, generator=rng, dtype=torch.float64) * 3
    assert torch.allclose(spec.FORMULAS[act](x, 0.2), TEXTBOOK[act](x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", TEXTBOOK)
def test_value_and_derivatives(
    act: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, b = torch.randn(3, 5, 7, 2, generator=rng).to(dtype), torch.randn(5, generator=rng).to(dtype)
    y = assert_within_budget(lambda x, b: bias_act(x, b, act=act), formula(act=act), [x, b])
    assert y.dtype == dtype


@pytest.mark.parametrize("act", TEXTBOOK)
@pytest.mark.parametrize("clamp", [None, 0.7], ids=["no clamp", "clamp"])
def test_second_order(act: str, clamp: float | None, implementation: str, rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True)

    def op(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=clamp)

    fast_mode = implementation == "triton" and INTERPRETED
    assert gradcheck(op, (x, b), fast_mode=fast_mode)
    assert gradgradcheck(op, (x, b), fast_mode=fast_mode)


@pytest.mark.parametrize(("shape", "dim"), [((6,), 0), ((4, 3), 0), ((4, 3), -1), ((2, 3, 5, 4), 2)], ids=str)
def test_dim(
    shape: tuple[int, ...], dim: int, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, b = torch.randn(shape, generator=rng), torch.randn(shape[dim], generator=rng)
    options = dict(dim=dim, act="tanh", gain=2.0)
    assert_within_budget(lambda x, b: bias_act(x, b, **options), formula(**options), [x, b])


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


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 7, 1, 5), (2, 3, 19, 21), (1, 8, 16, 16), (3, 1, 11, 31)], ids=str)
def test_tiles_and_their_tails(
    shape: tuple[int, ...], channels_last: bool, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, b = torch.randn(shape, generator=rng), torch.randn(shape[1], generator=rng)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout).requires_grad_()
    options = dict(act="lrelu", gain=1.3, clamp=1.0)
    y = assert_within_budget(lambda x, b: bias_act(x, b, **options), formula(**options), [x, b])
    assert y.is_contiguous(memory_format=layout)
    (gradient,) = torch.autograd.grad(bias_act(x, b, **options), x, torch.randn(shape, generator=rng))
    assert gradient.is_contiguous(memory_format=layout)


def test_gradients_of_strided_and_empty_inputs(rng: torch.Generator) -> None:
    base = torch.randn(2, 4, 5, 6, generator=rng)
    x, b = base[:, :, ::2, 1:].requires_grad_(), torch.randn(4, generator=rng).requires_grad_()
    strided = torch.autograd.grad(bias_act(x, b, act="swish").sum(), [x, b])  # an upstream gradient of stride 0
    dense = [x.detach().contiguous().requires_grad_(), b]
    truths = torch.autograd.grad(bias_act(*dense, act="swish"), dense, torch.ones(x.shape))
    for gradient, truth in zip(strided, truths, strict=True):
        assert torch.allclose(gradient, truth)
    nothing = torch.zeros(0, 4, 5, 6, requires_grad=True)
    dx, db = torch.autograd.grad(bias_act(nothing, b, act="tanh").sum(), [nothing, b])
    assert dx.shape == nothing.shape
    assert db.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "options",
    [
        dict(act="lrelu", alpha=-0.3),
        dict(act="lrelu", alpha=0.0, clamp=0.6),
        dict(act="relu", gain=-1.5),
        dict(act="tanh", gain=-0.5, clamp=0.3),
        dict(act="selu", gain=0.0),
        dict(act="sigmoid", clamp=0.0),
    ],
    ids=str,
)
def test_odd_constants(
    options: dict[str, Any], rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, b = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 3), (3,)))
    assert_within_budget(lambda x, b: bias_act(x, b, **options), formula(**options), [x, b])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("act", ["linear", "relu", "tanh", "swish"])
def test_a_clamp_between_two_numbers_of_half_precision(act: str, dtype: torch.dtype) -> None:
    """The saved result is the clamp rounded up or down; the gradient is 0 all the same."""
    for clamp in (0.7, 0.7003, 0.71):
        x = torch.tensor([-9.0, 0.25, 9.0], dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(bias_act(x, act=act, clamp=clamp), x, torch.ones(3, dtype=dtype))
        assert gradient[2] == 0
        assert gradient[1] > 0
        assert (gradient[0] == 0) == (act != "swish")


@pytest.mark.parametrize("act", ["sigmoid", "elu", "selu", "softplus", "swish"])
def test_far_from_zero(act: str, assert_within_budget: Callable[..., Tensor]) -> None:
    """Where one term of the formula is below the other's last digit, or beyond the exponents."""
    for magnitude in (18.0, 25.0, 80.0, 800.0):
        x = torch.linspace(-magnitude, magnitude, 13, dtype=torch.float64)
        assert_within_budget(lambda x: bias_act(x, act=act), lambda x: spec.bias_act(x, None, 0, ACTIVATIONS[act]), [x])


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_every_magnitude(act: str, rng: torch.Generator) -> None:
    """Relative error of each element, near zero and far from it."""
    magnitudes = torch.logspace(-8, 1.5, 400, dtype=torch.float64)
    x = torch.cat([-magnitudes, magnitudes]).float()
    expected = spec.FORMULAS[act](x.double(), 0.0)
    assert torch.allclose(bias_act(x, act=act, gain=1.0).double(), expected, rtol=4e-6, atol=0)


def test_no_dimension_and_no_bias() -> None:
    assert bias_act(torch.tensor(-2.0), act="relu", gain=1.0) == 0
    assert bias_act(torch.tensor(-2.0), act="lrelu", gain=1.0).shape == ()


TRITON_ONLY = pytest.mark.parametrize("implementation", ["triton"], indirect=True)
OPERATIONS = [("linear", None), ("linear", 0.8), ("lrelu", 0.8), ("tanh", None), ("swish", 0.8)]


@TRITON_ONLY
@pytest.mark.parametrize(("act", "clamp"), OPERATIONS, ids=str)
def test_registration(act: str, clamp: float | None, rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 5, generator=rng).to(memory_format=torch.channels_last).requires_grad_()
    b, g = torch.randn(3, generator=rng, requires_grad=True), torch.randn(2, 3, 4, 5, generator=rng, requires_grad=True)
    torch.library.opcheck(bias_act_op, (x, b, 1, act, 0.2, 1.3, clamp))
    saved = None if (act, clamp) == ("linear", None) else torch.rand(2, 3, 4, 5, generator=rng, requires_grad=True)
    torch.library.opcheck(bias_act_backward, (g, saved, act, 0.2, 1.3, clamp))


@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize(("act", "clamp"), OPERATIONS, ids=str)
def test_compiled_second_order(
    act: str, clamp: float | None, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x, b = torch.randn(2, 3, 4, generator=rng), torch.randn(3, generator=rng)
    options = dict(act=act, clamp=clamp)
    assert_within_budget(lambda x, b: bias_act(x, b, **options), formula(**options), [x, b], compiled=True)


@TRITON_ONLY
def test_launches_are_recorded_without_tensors() -> None:
    x, b = torch.empty(2, 8, 4, 4, dtype=torch.float16, device="meta"), torch.empty(8, device="meta")
    with record_launches() as launches:
        y = launch_forward(x, b, 16, Activation("lrelu", 0.2, 1.4, 256.0))
        launch_backward(y, y, Activation("lrelu", 0.2, 1.4, 256.0))
    assert [launch.written for launch in launches] == [("y",), ("dv",)]
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(act="gelu"), "act is 'gelu', expected one of linear, relu"),
        (dict(clamp=-1.0), "clamp is -1.0"),
        (dict(b=torch.zeros(3)), "b has shape"),
        (dict(b=torch.zeros(4), dim=5), "b has shape"),
        (dict(x=torch.zeros(2, 4, dtype=torch.int64)), "x is torch.int64"),
    ],
    ids=["act", "clamp", "b", "dim", "x"],
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_act(**(dict(x=torch.zeros(2, 4)) | options))
