"""Convolution with resampling against its definition: enlarge, convolve, shrink."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import composite_spec as spec
from smartfast.kernels import conv2d_resample, setup_filter

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


F4, F53 = (4, 4), (5, 3)
CASES = {
    "plain": dict(weight=(5, 4, 3, 3), padding=(1, 1, 1, 1)),
    "convolution": dict(weight=(5, 4, 3, 3), padding=(1, 1, 1, 1), flip_weight=False),
    "uneven padding": dict(weight=(2, 4, 3, 2), padding=(2, 0, -1, 1)),
    "1x1": dict(weight=(3, 4, 1, 1)),
    "1x1 padded": dict(weight=(3, 4, 1, 1), padding=(1, 0, 2, -1)),
    "1x1 up": dict(weight=(3, 4, 1, 1), f=F4, up=2),
    "1x1 down": dict(weight=(3, 4, 1, 1), f=F4, down=2),
    "up": dict(weight=(3, 4, 3, 3), f=F4, up=2, padding=(1, 1, 1, 1), flip_weight=False),
    "up3 uneven": dict(weight=(3, 4, 2, 5), f=F53, up=3, padding=(2, 1, 0, 3)),
    "up, even weight": dict(weight=(3, 4, 4, 2), f=(3,), up=2, padding=(1, 1, 2, 0)),
    "up, no filter": dict(weight=(3, 4, 3, 3), up=2, padding=(1, 1, 1, 1)),
    "down": dict(weight=(5, 4, 3, 3), f=F4, down=2, padding=(1, 1, 1, 1)),
    "down3 flipped": dict(weight=(5, 4, 3, 3), f=F53, down=3, padding=(1, 0, 2, 1), flip_filter=True),
    "up and down": dict(weight=(2, 4, 3, 3), f=F4, up=2, down=2, padding=(1, 1, 1, 1)),
    "groups": dict(weight=(6, 2, 3, 3), groups=2, padding=(1, 1, 1, 1)),
    "groups up": dict(weight=(6, 2, 3, 3), f=F53, groups=2, up=2, padding=(1, 1, 1, 1), flip_weight=False),
    "crop past the edge": dict(weight=(3, 4, 3, 3), padding=(-11, 9, 0, 0)),
    "1x1, crop past the edge": dict(weight=(3, 4, 1, 1), padding=(1, 1, 6, -8)),
    "crop past the edge, down": dict(weight=(3, 4, 3, 3), f=F4, down=2, padding=(12, -14, 1, 1)),
    "crop past the edge, up": dict(weight=(3, 4, 3, 3), f=(3,), up=2, padding=(-30, 20, 1, 1)),
    "groups down": dict(weight=(6, 2, 3, 3), f=F4, groups=2, down=2, padding=(1, 1, 1, 1)),
}


def unpack(name: str, rng: torch.Generator) -> tuple[Tensor, Tensor | None, dict]:
    options = dict(CASES[name])
    weight = torch.randn(options.pop("weight"), generator=rng)
    f = torch.randn(options.pop("f"), generator=rng) if "f" in options else None
    return weight, f, options


@pytest.mark.sample(2)
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    weight, f, options = unpack(name, rng)
    x = torch.randn(2, 4, 7, 9, generator=rng).to(dtype)
    tensors = [x, weight.to(dtype)]
    y = assert_within_budget(
        partial(conv2d_resample, f=f, **options), partial(spec.conv2d_resample, f=f, **options), tensors
    )
    assert y.dtype == dtype


@pytest.mark.parametrize("name", ["plain", "1x1 down", "up", "down", "groups up"])
def test_second_order(name: str, rng: torch.Generator) -> None:
    weight, f, options = unpack(name, rng)
    x = torch.randn(1, 4, 4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = weight.double().requires_grad_()

    def op(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d_resample(x, weight, f=f, **options)

    assert gradcheck(op, (x, weight), fast_mode=True)
    assert gradgradcheck(op, (x, weight), fast_mode=True)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("options", [dict(), dict(up=2), dict(down=2)], ids=["same", "up", "down"])
def test_layouts(options: dict[str, Any], rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    f, weight = setup_filter([1, 3, 3, 1]), torch.randn(8, 4, 3, 3, generator=rng)
    op = partial(conv2d_resample, f=f, padding=1, **options)
    formula = partial(spec.conv2d_resample, f=f, padding=1, **options)
    x = torch.randn(2, 4, 8, 10, generator=rng)
    y = assert_within_budget(op, formula, [x.to(memory_format=torch.channels_last), weight])
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_within_budget(op, formula, [torch.randn(2, 4, 8, 20, generator=rng)[..., ::2], weight])
    assert op(x[:0], weight).shape == (0, *y.shape[1:])


@pytest.mark.usefixtures("implementation")
def test_autocast_decides_the_dtype(rng: torch.Generator, within_budget: Callable[..., None]) -> None:
    f = setup_filter([1, 3, 3, 1])
    tensors = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(8, 4, 3, 3, generator=rng)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        y = conv2d_resample(*tensors, f=f, down=2, padding=1)
    assert y.dtype == torch.bfloat16
    own, truth = (
        spec.conv2d_resample(*(t.to(d) for t in tensors), f=f, down=2, padding=1) for d in (y.dtype, torch.double)
    )
    within_budget("result", y, own, truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(4, 8, 8)), "x is torch.float32"),
        (dict(weight=torch.zeros(5, 3, 3, 3)), "weight has shape"),
        (dict(weight=torch.zeros(5, 2, 3, 3), groups=2), "weight has shape"),
        (dict(up=0), "up is 0"),
        (dict(up=2, f=torch.ones(2, 2, 2)), r"f has shape \(2, 2, 2\)"),
        (dict(padding=-3), r"padding -3 leaves 0x0 pixels of x \(2, 4, 8, 8\)"),
        (dict(padding=-9), "padding -9 leaves -12x-12 pixels"),
        (dict(padding=(0, -6)), "leaves -6x6 pixels"),
        (dict(up=2, f=torch.ones(4, 4), padding=-7), "padding -7 leaves 0x0 pixels"),
        (dict(down=2, f=torch.ones(4, 4), padding=-3), "padding -3 leaves -1x-1 pixels"),
        (dict(up=2, down=2, f=torch.ones(4), padding=-7), "padding -7 leaves -1x-1 pixels"),
    ],
    ids=["x", "weight channels", "weight groups", "up", "f", "none left", "less", "rows", "up to none", "down", "both"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(5, 4, 3, 3)) | change
    with pytest.raises(ValueError, match=message):
        conv2d_resample(arguments.pop("x"), arguments.pop("weight"), **arguments)
