"""The verification of kernels finds every kind of wrong kernel, and none that is right."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast import kernels
from smartfast.kernels import selection
from smartfast.kernels.bias_act.op import make_activation
from smartfast.kernels.budget import OverBudget
from smartfast.kernels.calls import Call, recorded_calls
from smartfast.kernels.verify import check_call

CPU = torch.device("cpu")
Implementation = Callable[..., Tensor]


def bias_act_call(dtype: torch.dtype = torch.float32, width: int = 5) -> Call:
    x = torch.empty(2, 3, 4, width, dtype=dtype, device="meta", requires_grad=True)
    b = torch.empty(3, dtype=dtype, device="meta", requires_grad=True)
    return Call("bias_act", dict(x=x, b=b, dim=1, activation=make_activation("swish", None, None, None)))


@pytest.fixture
def put_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Implementation], Implementation]], None]:
    """Has an implementation made of the right one take the place of bias_act's Triton form."""

    def put(make: Callable[[Implementation], Implementation]) -> None:
        table = selection.implementations()["bias_act"]
        monkeypatch.setitem(table, "triton", make(table["triton"]))

    return put


def wrong_value(right: Implementation) -> Implementation:
    return lambda *a, **k: right(*a, **k) * 1.03


def wrong_gradient(right: Implementation) -> Implementation:
    return lambda x, *a, **k: right(x, *a, **k) + 0.03 * (x - x.detach())


def wrong_second_derivative(right: Implementation) -> Implementation:
    return lambda x, *a, **k: right(x, *a, **k) + (x - x.detach()).square()


def nan_in_the_tail(right: Implementation) -> Implementation:
    def wrong(x: Tensor, *a: Any, **k: Any) -> Tensor:
        y = right(x, *a, **k)
        return torch.cat([y.flatten()[:-1], y.new_full((1,), torch.nan)]).view_as(y)

    return wrong


def unwritten(right: Implementation) -> Implementation:
    return lambda x, *a, **k: torch.empty_like(x) * 0 + right(x, *a, **k)


def written_beside(right: Implementation) -> Implementation:
    def wrong(x: Tensor, *a: Any, **k: Any) -> Tensor:
        y = torch.empty_like(x)
        y.detach().as_strided((1,), (1,), y.storage_offset() + y.numel()).fill_(7)
        return right(x, *a, **k) + 0 * y.detach().nan_to_num()

    return wrong


def changed_argument(right: Implementation) -> Implementation:
    def wrong(x: Tensor, *a: Any, **k: Any) -> Tensor:
        y = right(x, *a, **k)
        x.data.flatten()[0] += 1
        return y

    return wrong


def only_in_half_precision(right: Implementation) -> Implementation:
    return lambda x, *a, **k: right(x, *a, **k) * (1.03 if x.dtype == torch.float16 else 1)


def only_at_odd_sizes(right: Implementation) -> Implementation:
    return lambda x, *a, **k: right(x, *a, **k) * (1.03 if x.shape[3] % 2 else 1)


def first_result_again(right: Implementation) -> Implementation:
    """As one that hands out what the reference has computed."""
    kept: list[Tensor] = []

    def wrong(x: Tensor, *a: Any, **k: Any) -> Tensor:
        if len(kept) < 2:  # of the first numbers: once for the shape, once for the derivatives
            kept.append(right(x, *a, **k))
            return kept[-1]
        return right(x, *a, **k) + (kept[0] - right(x, *a, **k)).detach()

    return wrong


def raises(right: Implementation) -> Implementation:
    def wrong(*a: Any, **k: Any) -> Tensor:
        raise RuntimeError("out of resource: shared memory")

    return wrong


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_value, "^result: relative error"),
        (wrong_gradient, "^gradient of input 0: relative error"),
        (wrong_second_derivative, "^second of input 0: relative error"),
        (nan_in_the_tail, "^result: relative error nan"),
        (unwritten, "^result: relative error nan"),
        (written_beside, "^memory beside a tensor of 120 numbers was written"),
        (changed_argument, "^an argument was changed|^result: relative error"),
        (first_result_again, "^result: relative error"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_kernel_is_found(
    fault: Callable[[Implementation], Implementation], message: str, put_in: Callable[..., None]
) -> None:
    check_call(bias_act_call(), CPU)
    put_in(fault)
    with pytest.raises(OverBudget, match=message):
        check_call(bias_act_call(), CPU)


@pytest.mark.parametrize(
    ("fault", "right", "wrong"),
    [
        (only_in_half_precision, bias_act_call(), bias_act_call(torch.float16)),
        (only_at_odd_sizes, bias_act_call(width=4), bias_act_call(width=5)),
    ],
    ids=["half precision", "odd sizes"],
)
def test_a_fault_of_some_calls_is_found_there(
    fault: Callable[[Implementation], Implementation], right: Call, wrong: Call, put_in: Callable[..., None]
) -> None:
    put_in(fault)
    check_call(right, CPU)
    with pytest.raises(OverBudget, match="^result: relative error"):
        check_call(wrong, CPU)


@pytest.fixture
def nothing_switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(selection, "_switched_off", {})
    yield


@pytest.mark.usefixtures("nothing_switched_off")
def test_what_is_switched_off_runs_as_aten(put_in: Callable[..., None]) -> None:
    put_in(raises)
    x = torch.randn(2, 3, 4, 5)
    with kernels.use("triton"):
        with pytest.raises(RuntimeError, match="out of resource"):
            kernels.bias_act(x)
        kernels.switch_off("bias_act", "its kernels failed")
        assert torch.equal(kernels.bias_act(x), kernels.bias_act(x, impl="aten"))
        assert kernels.implementation_of("bias_act", "cpu") == ("aten", "switched off, its kernels failed")
    with pytest.raises(ValueError, match="found 'convolve', expected an op"):
        kernels.switch_off("convolve", "")


def test_calls_inside_composites_are_noted() -> None:
    x, weight = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    styles = torch.randn(2, 3)
    with recorded_calls() as calls:
        for _ in range(2):
            kernels.modulated_conv2d(x, weight, styles, up=2, f=kernels.setup_filter([1, 3, 3, 1]), padding=1)
    assert [call.op for call in calls.values()] == ["finish", "conv2d", "upfirdn2d_finish"]
    convolution = calls[next(content for content in calls if content.startswith("conv2d"))]
    assert convolution.arguments["weight"].requires_grad and convolution.arguments["x"].is_meta
    with torch.no_grad(), recorded_calls() as calls:
        kernels.bias_act(x)
    assert not next(iter(calls.values())).arguments["x"].requires_grad
