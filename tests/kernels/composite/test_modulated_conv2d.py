"""Modulated convolution against one explicit weight per sample."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import (
    ACTIVATIONS,
    Epilogue,
    Route,
    limit_styles,
    modulated_conv2d,
    routes,
    setup_filter,
    use,
)
from smartfast.kernels import composite_spec as spec
from smartfast.kernels.runtime import record_launches

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FILTER = setup_filter([1, 3, 3, 1])


def definition(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor,
    bias: Tensor,
    next_styles: Tensor | None = None,
    *,
    act: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
    **conv: Any,
) -> Tensor:
    epilogue = Epilogue(None, noise, bias, next_styles, ACTIVATIONS[act]._replace(gain=gain, clamp=clamp))
    return spec.modulated_conv2d(x, weight, styles, epilogue, **conv)


CASES = {
    "plain": dict(padding=1),
    "not demodulated": dict(padding=1, demodulate=False),
    "torgb": dict(k=1, demodulate=False, clamp=2.0),
    "layer": dict(padding=1, act="lrelu", gain=1.4, clamp=1.5),
    "swish": dict(padding=1, act="swish", gain=2.0),
    "up": dict(padding=1, up=2, f=FILTER, flip_weight=False, act="lrelu", gain=2.0),
    "down": dict(padding=1, down=2, f=FILTER, act="lrelu"),
    "1x1 up": dict(k=1, up=2, f=FILTER),
}


def arguments(options: dict, rng: torch.Generator, noise_per_sample: bool = True) -> tuple[list[Tensor], dict]:
    """Random x, weight, styles, noise and bias in float64, and the remaining options."""
    options = dict(options)
    k = options.pop("k", 3)
    x, weight = torch.randn(3, 4, 6, 8, generator=rng), torch.randn(5, 4, k, k, generator=rng)
    styles, bias = torch.randn(3, 4, generator=rng), torch.randn(5, generator=rng)
    size = [n * options.get("up", 1) // options.get("down", 1) for n in (6, 8)]
    noise = torch.randn([3, 1, *size] if noise_per_sample else size, generator=rng)
    return [t.double() for t in (x, weight, styles, noise, bias)], options


def call(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor,
    bias: Tensor,
    next_styles: Tensor | None = None,
    **options: Any,
) -> Tensor:
    return modulated_conv2d(x, weight, styles, noise=noise, bias=bias, next_styles=next_styles, **options)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    tensors, options = arguments(CASES[name], rng, noise_per_sample=name != "plain")
    tensors = [t.to(dtype) for t in (*tensors, torch.randn(3, 5, generator=rng))]
    # Rounding to half precision moves numbers across a clamp and a kink, where the gradient jumps.
    order = 2 if dtype in (torch.float64, torch.float32) else int("clamp" not in options)
    y = assert_within_budget(partial(call, **options), partial(definition, **options), tensors, order=order)
    assert y.dtype == dtype


def small_arguments(name: str, rng: torch.Generator) -> tuple[list[Tensor], dict]:
    """Those of `arguments` for 2 samples of 4x4 pixels and 2 output channels."""
    (x, weight, styles, _, bias), options = arguments(CASES[name], rng)
    size = [4 * options.get("up", 1) // options.get("down", 1)] * 2
    noise = torch.randn(2, 1, *size, generator=rng).double()
    return [x[:2, :, :4, :4].contiguous(), weight[:2], styles[:2], noise, bias[:2]], options


@pytest.mark.parametrize("name", ["layer", "up", "down", "torgb"])
def test_second_order(name: str, rng: torch.Generator) -> None:
    leaves, options = small_arguments(name, rng)
    leaves = [t.requires_grad_() for t in leaves]
    assert gradcheck(lambda *t: call(*t, **options), leaves, fast_mode=True)
    assert gradgradcheck(lambda *t: call(*t, **options), leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "not demodulated", "torgb", "layer", "swish"])
def test_second_order_by_the_gemm_route(
    name: str, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, assert_within_budget: Callable[..., Tensor]
) -> None:
    monkeypatch.setattr(routes, "measured_route", lambda *_: Route("gemm", "for this test"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    tensors, options = small_arguments(name, rng)
    tensors = [t.float() for t in (*tensors, torch.randn(2, 2, generator=rng))]
    op = partial(call, impl="triton", **options)
    assert_within_budget(op, partial(definition, **options), tensors, cancels=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.usefixtures("implementation")
def test_styles_of_the_next_layer(
    act: str, dtype: torch.dtype, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    """Two layers, of which the first applies the styles of the second."""
    tensors, _ = arguments(CASES["plain"], rng)
    tensors += [torch.randn(2, 5, 3, 3, generator=rng), torch.randn(3, 5, generator=rng)]

    def layers(*tensors: Tensor) -> Tensor:
        *first, w1, s1 = tensors
        y = call(*first, padding=1, act=act, next_styles=s1)
        return modulated_conv2d(y, w1, s1, padding=1, input_is_scaled=True)

    def defined(*tensors: Tensor) -> Tensor:
        *first, w1, s1 = tensors
        y = definition(*first, padding=1, act=act)
        return definition(y, w1, s1, y.new_zeros(()), y.new_zeros(2), padding=1)

    y = assert_within_budget(layers, defined, [t.to(dtype) for t in tensors], order=1)
    assert y.dtype == dtype


def test_impl_of_a_call_goes_before_the_current_choice(rng: torch.Generator) -> None:
    (x, weight, styles, *_), _ = arguments(CASES["plain"], rng)
    with record_launches() as launches:
        with use("triton"):
            modulated_conv2d(x, weight, styles, impl="aten")
            assert not launches
            modulated_conv2d(x, weight, styles)
            assert launches
        launched = len(launches)
        modulated_conv2d(x, weight, styles, impl="triton")
    assert len(launches) == 2 * launched


@pytest.mark.usefixtures("implementation")
def test_weights_in_float32_beside_half_activations(rng: torch.Generator, within_budget: Callable[..., None]) -> None:
    tensors, options = arguments(CASES["layer"], rng)
    half = [t.half() for t in tensors]
    x, _, _, noise, bias = half
    y = call(x, tensors[1].float(), tensors[2].float(), noise, bias, **options)
    assert y.dtype == torch.float16
    truth = definition(x.double(), *tensors[1:3], noise.double(), bias.double(), **options)
    within_budget("result", y, definition(*half, **options), truth)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4], ids="scale {:g}".format)
def test_float16_does_not_overflow(scale: float, rng: torch.Generator) -> None:
    """Where PyTorch's own float16 does, so that there is no budget: within the 11 bits of each of three roundings."""
    x = (torch.randn(2, 64, 8, 8, generator=rng) * 50).half()
    weight, styles = torch.randn(32, 64, 3, 3, generator=rng) * scale, torch.randn(2, 64, generator=rng) * 300
    y = modulated_conv2d(x, weight, styles, padding=1)
    truth = modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1, impl="aten")
    assert (y.double() - truth).norm() <= 3 * 2**-11 * truth.norm()


FAINT = {
    "a filter of zeros": (dict(weight=[1, 0, 1, 1]), {}),
    "a faint filter": (dict(weight=[1, 1e-6, 1, 1]), {}),
    "every filter faint": (dict(weight=[1e-6] * 4), {}),
    "a sample of zeros": (dict(styles=[0, 1]), {}),
    "a faint sample": (dict(styles=[1e-6, 1]), {}),
    "both faint": (dict(weight=[0, 1e-5, 1, 1], styles=[1e-5, 1]), {}),
    "large styles": (dict(weight=[0, 1e-6, 1, 1], styles=[300, 1]), {}),
    "scaled before": (dict(weight=[1, 0, 1e-6, 1]), dict(input_is_scaled=True)),
    "up": (dict(weight=[1, 0, 1e-6, 1]), dict(up=2, f=FILTER)),
}
"""Factors of filters and of samples' styles that bring the demodulated norm near DEMODULATION_EPS, and options."""


@pytest.mark.parametrize(
    ("implementation", "route"),
    [("aten", "library"), ("triton", "library"), ("triton", "gemm")],
    indirect=["implementation"],
)
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", FAINT)
def test_faint_weights_and_styles_in_float16(
    name: str, route: str, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients of every filter and of every sample's styles against float64: up to 1e4 times the usual."""
    monkeypatch.setattr(routes, "measured_route", lambda *_: Route(route, "for this test"))
    factors, options = FAINT[name]
    one = torch.ones(4)
    x = torch.randn(2, 8, 6, 6, generator=rng).half()
    weight = torch.randn(4, 8, 3, 3, generator=rng) * torch.as_tensor(factors.get("weight", one)).view(4, 1, 1, 1)
    styles = torch.randn(2, 8, generator=rng) * torch.as_tensor(factors.get("styles", one[:2])).view(2, 1)
    upstream = torch.randn(2, 4, 6 * options.get("up", 1), 6 * options.get("up", 1), generator=rng).half()

    def run(dtype: torch.dtype, impl: str | None = None) -> list[Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        w, s = (t.to(wide).requires_grad_() for t in (weight, styles))
        y = modulated_conv2d(x.to(dtype), w, s, padding=1, impl=impl, **options)
        dw, ds = torch.autograd.grad(y, [w, s], upstream.to(dtype), materialize_grads=True, allow_unused=True)
        return [*y.flatten(0, 1), *dw, *ds]

    for found, truth in zip(run(torch.float16), run(torch.float64, "aten"), strict=True):
        assert (found.double() - truth).norm() <= 0.01 * truth.norm() + 1e-6


def test_limited_styles_are_at_most_one_and_faint_ones_stay() -> None:
    styles = torch.tensor([[2.0, -4.0], [0.0, 0.0], [2**-20, 0.5]], requires_grad=True)
    limited = limit_styles(styles)
    assert limited.tolist() == [[0.5, -1.0], [0.0, 0.0], [2**-20, 0.5]]
    (gradient,) = torch.autograd.grad(limited.sum(), styles)
    assert gradient.tolist() == [[0.25, 0.25], [1, 1], [1, 1]]


@pytest.mark.usefixtures("implementation")
def test_autocast_decides_the_dtype(rng: torch.Generator, within_budget: Callable[..., None]) -> None:
    tensors, options = arguments(CASES["layer"], rng)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        y = call(*(t.float() for t in tensors), **options)
    assert y.dtype == torch.bfloat16
    within_budget(
        "result", y, definition(*(t.to(y.dtype) for t in tensors), **options), definition(*tensors, **options)
    )


@pytest.mark.usefixtures("implementation")
def test_layouts(rng: torch.Generator, assert_within_budget: Callable[..., Tensor]) -> None:
    tensors, options = arguments(CASES["up"], rng)
    x, *others = [t.float() for t in tensors]
    op, formula = partial(call, **options), partial(definition, **options)
    y = assert_within_budget(op, formula, [x.to(memory_format=torch.channels_last), *others], order=1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    strided = torch.stack([x, x], dim=4).reshape(3, 4, 6, 16)[..., ::2]
    assert_within_budget(op, formula, [strided, *others], order=1)
    weight, styles, noise, bias = others
    assert op(x[:0], weight, styles[:0], noise[:0], bias).shape == (0, *y.shape[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(styles=torch.zeros(2, 3)), "styles has shape"),
        (dict(bias=torch.zeros(4)), "bias has shape"),
        (dict(noise=torch.zeros(8)), "noise has shape"),
        (dict(noise=torch.zeros(3, 1, 8, 8)), "noise has shape"),
        (dict(noise=torch.zeros(8, 8), up=2, f=FILTER), r"noise has shape \(8, 8\), expected \(2, 1, 16, 16\)"),
        (dict(noise=torch.zeros(1, 1)), "noise has shape"),
        (dict(next_styles=torch.zeros(2, 4)), "next_styles has shape"),
        (dict(act="gelu"), "act is 'gelu'"),
        (dict(padding=-3), "padding -3 leaves 0x0 pixels"),
    ],
    ids=[
        "styles",
        "bias",
        "noise",
        "of another batch",
        "of another size",
        "too small",
        "next styles",
        "act",
        "padding",
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    names = (
        dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(5, 4, 3, 3), styles=torch.zeros(2, 4), padding=1) | change
    )
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(names.pop("x"), names.pop("weight"), names.pop("styles"), **names)
