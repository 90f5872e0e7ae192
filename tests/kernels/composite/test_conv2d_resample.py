"""Convolution with resampling against its definition: enlarge, convolve pixel by pixel, shrink."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import conv2d, conv2d_resample, setup_filter, upfirdn2d

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
REFERENCE: dict[str, Any] = dict(impl="aten")


def correlate(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Valid correlation, as a sum over patches."""
    o, c, kh, kw = weight.shape
    n, _, h, w = x.shape
    patches = F.unfold(x, (kh, kw)).reshape(n, groups, c * kh * kw, -1)
    y = torch.einsum("goc,ngcp->ngop", weight.reshape(groups, o // groups, c * kh * kw), patches)
    return y.reshape(n, o, h - kh + 1, w - kw + 1)


def definition(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, ...] = (0, 0, 0, 0),
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """The op as its docstring says it; upfirdn2d has its own tests."""
    x, weight = x.double(), weight.double()
    fw, fh = (f.shape[-1], f.shape[0]) if f is not None else (1, 1)
    pads = list(padding)
    if up > 1:
        align = [(fw + up - 1) // 2, (fw - up) // 2, (fh + up - 1) // 2, (fh - up) // 2]
        pads = [a + b for a, b in zip(pads, align, strict=True)]
    if down > 1:
        align = [(fw - down + 1) // 2, (fw - down) // 2, (fh - down + 1) // 2, (fh - down) // 2]
        pads = [a + b for a, b in zip(pads, align, strict=True)]
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2, flip_filter=flip_filter, **REFERENCE)
    x = correlate(x, weight if flip_weight else weight.flip([2, 3]), groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter, **REFERENCE) if down > 1 else x


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
    "groups down": dict(weight=(6, 2, 3, 3), f=F4, groups=2, down=2, padding=(1, 1, 1, 1)),
}


def unpack(name: str, rng: torch.Generator) -> tuple[Tensor, Tensor | None, dict]:
    options = dict(CASES[name])
    weight = torch.randn(options.pop("weight"), generator=rng)
    f = torch.randn(options.pop("f"), generator=rng) if "f" in options else None
    return weight, f, options


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    weight, f, options = unpack(name, rng)
    x = torch.randn(2, 4, 7, 9, generator=rng).to(dtype).requires_grad_()
    weight = weight.to(dtype).requires_grad_()
    truths = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = definition(*truths, f, **options)
    y = conv2d_resample(x, weight, f=f, **options)
    assert y.dtype == dtype
    assert_near(y, expected)
    upstream = torch.randn(y.shape, generator=rng).to(dtype)
    gradients = torch.autograd.grad(y, [x, weight], upstream)
    for gradient, truth in zip(gradients, torch.autograd.grad(expected, truths, upstream.double()), strict=True):
        assert_near(gradient, truth)


@pytest.mark.parametrize("name", ["plain", "1x1 down", "up", "down", "groups up"])
def test_second_order(name: str, rng: torch.Generator) -> None:
    weight, f, options = unpack(name, rng)
    x = torch.randn(1, 4, 4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = weight.double().requires_grad_()

    def op(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d_resample(x, weight, f=f, **options)

    assert gradcheck(op, (x, weight), fast_mode=True)
    assert gradgradcheck(op, (x, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["plain", "1x1 up", "1x1 down", "up", "down", "up and down", "groups up"])
@pytest.mark.usefixtures("implementation")
def test_second_order_against_the_definition(
    name: str,
    dtype: torch.dtype,
    rng: torch.Generator,
    second_order: Callable[..., list[Tensor]],
    assert_near: Callable[..., None],
) -> None:
    weight, f, options = unpack(name, rng)
    x = torch.randn(1, 4, 4, 5, generator=rng)
    upstream = torch.randn(definition(x, weight, f, **options).shape, generator=rng)
    v = torch.randn(x.shape, generator=rng)
    leaves = [t.to(dtype).requires_grad_() for t in (x, weight, upstream)]
    truths = [t.double().requires_grad_() for t in (x, weight, upstream)]

    def derivatives(op: Callable[..., Tensor], x: Tensor, weight: Tensor, upstream: Tensor) -> list[Tensor]:
        return second_order(lambda x, weight: op(x, weight, f=f, **options), x, [weight], upstream, v.to(x.dtype))

    for actual, truth in zip(derivatives(conv2d_resample, *leaves), derivatives(definition, *truths), strict=True):
        assert_near(actual, truth)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("options", [dict(), dict(up=2), dict(down=2)], ids=["same", "up", "down"])
def test_layouts(options: dict[str, Any], rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    f, weight = setup_filter([1, 3, 3, 1]), torch.randn(8, 4, 3, 3, generator=rng)
    x = torch.randn(2, 4, 8, 10, generator=rng)
    expected = conv2d_resample(x.double(), weight.double(), f=f, padding=1, **options, **REFERENCE)
    y = conv2d_resample(x.to(memory_format=torch.channels_last), weight, f=f, padding=1, **options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, expected)
    strided = torch.randn(2, 4, 8, 20, generator=rng)[..., ::2]
    assert_near(
        conv2d_resample(strided, weight, f=f, padding=1, **options),
        conv2d_resample(strided.double(), weight.double(), f=f, padding=1, **options, **REFERENCE),
    )
    assert conv2d_resample(x[:0], weight, f=f, padding=1, **options).shape == (0, *y.shape[1:])


@pytest.mark.usefixtures("implementation")
def test_autocast_decides_the_dtype(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    f, weight, x = (
        setup_filter([1, 3, 3, 1]),
        torch.randn(8, 4, 3, 3, generator=rng),
        torch.randn(2, 4, 8, 8, generator=rng),
    )
    expected = conv2d_resample(x.double(), weight.double(), f=f, down=2, padding=1, **REFERENCE)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        y = conv2d_resample(x, weight, f=f, down=2, padding=1)
    assert y.dtype == torch.bfloat16
    assert_near(y, expected)


def test_transposed_is_the_input_gradient(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    weight = torch.randn(6, 4, 3, 3, generator=rng, dtype=torch.float64)
    x = torch.randn(2, 4, 9, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    y = conv2d(x, weight, stride=2)
    upstream = torch.randn(y.shape, generator=rng, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert_near(conv2d(upstream, weight, stride=2, transposed=True), gradient)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(4, 8, 8)), "x is torch.float32"),
        (dict(weight=torch.zeros(5, 3, 3, 3)), "weight has shape"),
        (dict(weight=torch.zeros(5, 2, 3, 3), groups=2), "weight has shape"),
        (dict(up=0), "up is 0 and down is 1"),
    ],
    ids=["x", "weight channels", "weight groups", "up"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(5, 4, 3, 3)) | change
    with pytest.raises(ValueError, match=message):
        conv2d_resample(arguments.pop("x"), arguments.pop("weight"), **arguments)
