"""Resampling against its definition in loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from smartfast.kernels.upfirdn2d import spec
from smartfast.kernels.upfirdn2d.op import Resampling


def definition(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pads: tuple[int, int, int, int],
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Zero insertion, padding, filter and decimation, one output pixel at a time, in float64."""
    x, f = x.double(), f.double()
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = f if flip_filter else f.flip([0, 1])
    n, c, h, w = x.shape
    enlarged = torch.zeros(n, c, h * up[1], w * up[0], dtype=torch.float64)
    enlarged[:, :, :: up[1], :: up[0]] = x
    x0, x1, y0, y1 = pads
    big = torch.zeros(n, c, h * up[1] + 80, w * up[0] + 80, dtype=torch.float64)
    big[:, :, 40:-40, 40:-40] = enlarged
    padded = big[:, :, 40 - y0 : h * up[1] + 40 + y1, 40 - x0 : w * up[0] + 40 + x1]
    fh, fw = f.shape
    rows = range(0, padded.shape[2] - fh + 1, down[1])
    columns = range(0, padded.shape[3] - fw + 1, down[0])
    pixels = [[(padded[:, :, i : i + fh, j : j + fw] * f).sum(dim=[2, 3]) for j in columns] for i in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in pixels], dim=-2) * gain


CASES = {
    "plain": dict(f=(3, 4), up=(1, 1), down=(1, 1), pads=(1, 2, 0, 3)),
    "flip": dict(f=(3, 4), up=(1, 1), down=(1, 1), pads=(1, 2, 0, 3), flip_filter=True),
    "up2": dict(f=(4, 4), up=(2, 2), down=(1, 1), pads=(2, 1, 2, 1), gain=4.0),
    "down2": dict(f=(4, 4), up=(1, 1), down=(2, 2), pads=(1, 1, 1, 1)),
    "separable": dict(f=(5,), up=(2, 1), down=(1, 3), pads=(3, 2, 2, 2), gain=0.5),
    "up3 down2": dict(f=(5, 2), up=(3, 3), down=(2, 2), pads=(2, 1, 0, 4), gain=9.0),
    "mixed axes": dict(f=(3, 5), up=(2, 1), down=(1, 2), pads=(2, 0, 1, 3)),
    "crop": dict(f=(2, 3), up=(2, 2), down=(1, 1), pads=(-1, 2, 1, -2)),
    "crop all sides": dict(f=(3, 2), up=(1, 1), down=(1, 1), pads=(-1, -2, -1, -1)),
    "one tap": dict(f=(1, 1), up=(2, 2), down=(3, 3), pads=(0, 1, 2, 0)),
    "much padding": dict(f=(2, 2), up=(1, 1), down=(4, 4), pads=(9, 8, 7, 6)),
    "crop past the last pixel": dict(f=(2, 3), up=(1, 1), down=(1, 1), pads=(11, -12, 10, -9)),
    "crop past the first pixel": dict(f=(3,), up=(1, 1), down=(2, 2), pads=(-11, 12, -10, 9)),
    "crop past, back only": dict(f=(2, 2), up=(1, 2), down=(1, 1), pads=(0, 0, 9, -17)),
    "crop past, one axis": dict(f=(9,), up=(3, 1), down=(1, 2), pads=(-28, 24, 4, 4)),
    "negative gain": dict(f=(3, 2), up=(1, 1), down=(1, 1), pads=(1, 1, 1, 1), gain=-2.0),
    "negative gain, 1-D": dict(f=(3,), up=(1, 1), down=(1, 1), pads=(1, 1, 1, 1), gain=-2.0),
    "negative gain, long 1-D": dict(f=(6,), up=(2, 2), down=(1, 1), pads=(3, 2, 3, 2), gain=-0.5),
    "no gain, 1-D": dict(f=(3,), up=(1, 1), down=(1, 1), pads=(1, 1, 1, 1), gain=0.0),
    "short 1-D, up x": dict(f=(4,), up=(2, 1), down=(1, 1), pads=(3, 3, 3, 3)),
    "short 1-D, up y": dict(f=(3,), up=(1, 3), down=(1, 1), pads=(2, 0, 1, 3)),
    "short 1-D, down x": dict(f=(3,), up=(1, 1), down=(2, 1), pads=(1, 1, 1, 1)),
    "short 1-D, up x and down y": dict(f=(2,), up=(2, 1), down=(1, 3), pads=(2, 1, 3, 2)),
}


def unpack(name: str, rng: torch.Generator) -> tuple[Tensor, dict]:
    options = dict(CASES[name])
    return torch.randn(options.pop("f"), generator=rng), options


def call(x: Tensor, f: Tensor | None, options: dict) -> Tensor:
    return upfirdn2d(x, f, padding=options["pads"], **{k: v for k, v in options.items() if k != "pads"})


def formula(f: Tensor | None, up: Any = (1, 1), down: Any = (1, 1), pads: Any = (0,) * 4, **options: Any) -> Any:
    return lambda x: spec.upfirdn2d(x, f, Resampling(up, down, pads, **options))


@pytest.mark.parametrize("name", CASES)
def test_spec_is_the_definition(name: str, rng: torch.Generator) -> None:
    f, options = unpack(name, rng)
    x = torch.randn(2, 3, 7, 9, generator=rng).double()
    assert torch.allclose(formula(f, **options)(x), definition(x, f, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    f, options = unpack(name, rng)
    x = torch.randn(2, 3, 7, 9, generator=rng).to(dtype)
    y = assert_within_budget(lambda x: call(x, f, options), formula(f, **options), [x])
    assert y.dtype == dtype


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_every_order(name: str, rng: torch.Generator) -> None:
    f, options = unpack(name, rng)
    x = torch.randn(1, 2, 6, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: call(x, f, options), x, fast_mode=True)
    assert gradgradcheck(lambda x: call(x, f, options), x, fast_mode=True)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("pads", [(1, 2, -1, 3), (-15, 9, 0, 0), (0, 0, 18, -20)], ids=str)
def test_no_filter_is_one_tap(
    pads: tuple[int, ...], rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    x = torch.randn(2, 3, 5, 6, generator=rng)
    options = dict(up=(2, 3), down=(3, 2), pads=pads, gain=-1.5)
    assert_within_budget(lambda x: call(x, None, options), formula(torch.ones(1, 1), **options), [x])


@pytest.mark.usefixtures("implementation", "traced_autograd")
@pytest.mark.parametrize("name", ["crop past the last pixel", "crop past, back only", "negative gain, 1-D"])
def test_compiled(name: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    f, options = unpack(name, rng)
    x = torch.randn(2, 3, 7, 9, generator=rng)
    assert_within_budget(lambda x: call(x, f, options), formula(f, **options), [x], compiled=True)


@pytest.mark.usefixtures("implementation")
def test_argument_forms(rng: torch.Generator) -> None:
    x, f = torch.randn(1, 2, 6, 5, generator=rng), torch.randn(3, 3, generator=rng)
    assert torch.equal(upfirdn2d(x, f, up=2, padding=2), upfirdn2d(x, f, up=(2, 2), padding=(2, 2, 2, 2)))
    assert torch.equal(upfirdn2d(x, f, padding=[1, 3]), upfirdn2d(x, f, padding=[1, 1, 3, 3]))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("up", [(1, 1), (2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("down", [(1, 1), (2, 2), (3, 1)], ids=str)
def test_channels_last_stays(
    up: Any, down: Any, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    f = torch.randn(3, 3, generator=rng)
    x = torch.randn(2, 4, 6, 7, generator=rng).to(memory_format=torch.channels_last).requires_grad_()

    def op(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, up=up, down=down, padding=2)

    y = assert_within_budget(op, formula(f, up, down, (2, 2, 2, 2)), [x])
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(op(x), x, torch.randn_like(y))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("implementation")
def test_strided_input_and_expanded_gradient(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    f = torch.randn(4, 4, generator=rng)
    strided = torch.randn(2, 3, 9, 12, generator=rng)[:, :, 1:, ::2]
    upstream = torch.tensor(0.7).expand(2, 3, 15, 11)
    op = formula(f, (2, 2), pads=(1, 1, 1, 1))
    assert_within_budget(lambda x: upfirdn2d(x, f, up=2, padding=1), op, [strided], upstream=upstream)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("options", [dict(up=2), dict(down=2), dict()], ids=str)
def test_empty_batch(options: dict[str, Any]) -> None:
    x = torch.zeros(0, 3, 8, 8, requires_grad=True)
    y = upfirdn2d(x, torch.ones(4, 4), padding=(2, 1), **options)
    assert y.shape[:2] == (0, 3)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    assert gradient.shape == x.shape


@pytest.mark.usefixtures("implementation")
def test_resizing_keeps_constants() -> None:
    f = setup_filter([1, 3, 3, 1])
    x = torch.full((1, 1, 12, 12), 3.0)
    assert torch.allclose(upsample2d(x, f)[:, :, 2:-2, 2:-2], torch.tensor(3.0))
    assert torch.allclose(downsample2d(x, f)[:, :, 1:-1, 1:-1], torch.tensor(3.0))
    assert torch.allclose(filter2d(x, f, gain=2.0)[:, :, 2:-2, 2:-2], torch.tensor(6.0))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("taps", [2, 4, 12])
def test_resizing_moves_nothing(taps: int) -> None:
    """An even symmetric filter leaves the centre of gravity where it is, in units of the image."""
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 7:9, 7:9] = 1
    f = setup_filter(torch.ones(taps))
    for y in (upsample2d(x, f), downsample2d(x, f)):
        position = (torch.arange(y.shape[3]) + 0.5) / y.shape[3]
        assert torch.isclose((y.sum(dim=[0, 1, 2]) * position).sum() / y.sum(), torch.tensor(0.5))


def test_setup_filter() -> None:
    f = torch.tensor([1.0, 2.0, 5.0])
    assert torch.allclose(setup_filter(f), torch.outer(f, f) / 64)
    assert torch.allclose(setup_filter(f, flip_filter=True, gain=4.0), torch.outer(f, f).flip([0, 1]) / 16)
    assert torch.allclose(setup_filter(f, separable=True, gain=4.0), f / 8 * 2)
    assert setup_filter(torch.arange(8.0)).shape == (8,)
    assert torch.equal(setup_filter(None), torch.ones(1, 1))
    assert torch.equal(setup_filter(3, normalize=False), torch.full((1, 1), 9.0))
    assert torch.allclose(setup_filter(f, gain=-1.0), torch.outer(f, f) / -64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(f=[1.0, -1.0]), "the taps of f sum to 0"),
        (dict(f=[[1.0, 2.0], [-3.0, 0.0]]), "the taps of f sum to 0"),
        (dict(f=[1.0, 2.0], separable=True, gain=-1.0), "gain is -1.0, expected at least 0"),
        (dict(f=torch.ones(8), gain=-4.0), "gain is -4.0, expected at least 0"),
    ],
    ids=["1-D", "2-D", "separable", "long"],
)
def test_a_filter_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup_filter(options.pop("f"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4)), "x is torch.float32 (2, 3, 4)"),
        (dict(x=torch.zeros(1, 1, 4, 4, dtype=torch.int64)), "x is torch.int64"),
        (dict(x=torch.zeros(1, 1, 0, 4), padding=2), "x is torch.float32 (1, 1, 0, 4)"),
        (dict(x=torch.zeros(1, 0, 4, 4)), "x is torch.float32 (1, 0, 4, 4)"),
        (dict(f=torch.zeros(2, 2, 2)), "f has shape (2, 2, 2)"),
        (dict(up=0), "up is 0"),
        (dict(down=(1, 2, 3)), "down is (1, 2, 3)"),
        (dict(padding=(1, 2, 3)), "padding is (1, 2, 3)"),
        (dict(padding=-2), "leaves 0x0 pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(1, 1, 4, 4), f=torch.ones(2, 2)) | options
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        upfirdn2d(arguments.pop("x"), arguments.pop("f"), **arguments)


@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}])
def test_a_gradient_taken_under_autocast_is_that_without(options: dict[str, int]) -> None:
    x, f = torch.randn(2, 3, 8, 8, requires_grad=True), setup_filter([1, 3, 3, 1])
    y = upfirdn2d(x, f, padding=1, impl="aten", **options)
    upstream = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(found, expected)
