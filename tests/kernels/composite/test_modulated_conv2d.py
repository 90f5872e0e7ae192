"""Modulated convolution against one explicit weight per sample."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from smartfast.kernels.triton_ops import modulated_conv2d as triton_module
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import bias_act, conv2d_resample, modulated_conv2d, selection, setup_filter, use
from smartfast.kernels.routes import Route

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAMES = ("x", "weight", "styles", "noise", "bias")
FILTER = setup_filter([1, 3, 3, 1])


def definition(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor,
    bias: Tensor,
    next_styles: Tensor | None = None,
    *,
    demodulate: bool = True,
    act: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
    **conv: Any,
) -> Tensor:
    """Form every sample's weight, normalise it, convolve; conv2d_resample and bias_act have their own tests."""
    images = []
    for image, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        images.append(conv2d_resample(image[None], w, **conv, impl="aten"))
    y = bias_act(torch.cat(images) + noise, bias, act=act, gain=gain, clamp=clamp, impl="aten")
    return y if next_styles is None else y * next_styles[:, :, None, None]


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


def call(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return modulated_conv2d(x, weight, styles, noise=noise, bias=bias, **options)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    tensors, options = arguments(CASES[name], rng, noise_per_sample=name != "plain")
    tensors = [t.to(dtype).requires_grad_() for t in tensors]
    truths = [t.detach().double().requires_grad_() for t in tensors]
    y, expected = call(*tensors, **options), definition(*truths, **options)
    assert y.dtype == dtype
    assert_near(y, expected)
    upstream = torch.randn(y.shape, generator=rng).to(dtype)
    gradients = torch.autograd.grad(y, tensors, upstream)
    for gradient, truth in zip(gradients, torch.autograd.grad(expected, truths, upstream.double()), strict=True):
        assert gradient.dtype == dtype
        # Rounding to half precision moves outputs across the clamp, where the gradient jumps.
        if dtype in (torch.float64, torch.float32) or options.get("clamp") is None:
            assert_near(gradient, truth)


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


def derivatives(op: Callable[..., Tensor], leaves: list[Tensor], upstream: Tensor, v: list[Tensor]) -> list[Tensor]:
    """The output, its gradients, and the gradients of a random projection of those, for every leaf and `upstream`."""
    y = op(*leaves)
    first = torch.autograd.grad(y, leaves, upstream, create_graph=True)
    s = sum((a * b.to(a.dtype)).sum() for a, b in zip(first, v, strict=True))
    return [y, *first, *torch.autograd.grad(s, [*leaves, upstream], allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("implementation")
def test_second_order_against_the_definition(
    name: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    tensors, options = small_arguments(name, rng)
    tensors = [t.float() for t in (*tensors, torch.randn(2, 2, generator=rng))]
    upstream = torch.randn(definition(*tensors, **options).shape, generator=rng)
    v = [torch.randn(t.shape, generator=rng) for t in tensors]
    *leaves, dy = [t.to(dtype).requires_grad_() for t in (*tensors, upstream)]
    *truths, truth_dy = [t.double().requires_grad_() for t in (*tensors, upstream)]
    actual = derivatives(lambda *t: call(*t[:5], next_styles=t[5], **options), leaves, dy, v)
    expected = derivatives(lambda *t: definition(*t, **options), truths, truth_dy, v)
    for value, truth in zip(actual, expected, strict=True):
        if truth.any():
            assert_near(value, truth)
        else:
            assert not value.any()


@pytest.mark.parametrize("name", ["plain", "not demodulated", "torgb", "layer", "swish"])
def test_second_order_by_the_gemm_route(
    name: str, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, assert_near: Callable[..., None]
) -> None:
    monkeypatch.setattr(triton_module, "measured_route", lambda *_: Route("gemm", "for this test"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    tensors, options = small_arguments(name, rng)
    upstream = torch.randn(2, 2, 4, 4, generator=rng)
    v = [torch.randn(t.shape, generator=rng) for t in tensors]
    *leaves, dy = [t.float().requires_grad_() for t in (*tensors, upstream)]
    *truths, truth_dy = [t.detach().double().requires_grad_() for t in (*leaves, dy)]
    actual = derivatives(lambda *t: call(*t, **options, impl="triton"), leaves, dy, v)
    expected = derivatives(lambda *t: definition(*t, **options), truths, truth_dy, v)
    for value, truth in zip(actual, expected, strict=True):
        if truth.any():
            assert_near(value, truth)
        else:
            assert value.norm() <= 1e-6  # d * z is recovered from y, which leaves rounding where terms cancel


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.usefixtures("implementation")
def test_styles_of_the_next_layer(
    act: str, dtype: torch.dtype, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    """Two layers, of which the first applies the styles of the second; bfloat16 rounds too much for a chain of two."""
    (x, weight, styles, noise, bias), _ = arguments(CASES["plain"], rng)
    tensors = [x, weight, styles, noise, bias, torch.randn(2, 5, 3, 3, generator=rng), torch.randn(3, 5, generator=rng)]
    leaves = [t.to(dtype).requires_grad_() for t in tensors]
    truths = [t.detach().double().requires_grad_() for t in leaves]

    def layers(
        x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, w1: Tensor, s1: Tensor
    ) -> Tensor:
        y = call(x, weight, styles, noise, bias, padding=1, act=act, next_styles=s1)
        return modulated_conv2d(y, w1, s1, padding=1, input_is_scaled=True)

    def defined(
        x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, bias: Tensor, w1: Tensor, s1: Tensor
    ) -> Tensor:
        y = definition(x, weight, styles, noise, bias, padding=1, act=act)
        return definition(y, w1, s1, y.new_zeros(()), y.new_zeros(2), padding=1)

    y, expected = layers(*leaves), defined(*truths)
    assert y.dtype == dtype
    assert_near(y, expected)
    upstream = torch.randn(y.shape, generator=rng).to(dtype)
    gradients = torch.autograd.grad(y, leaves, upstream)
    for gradient, truth in zip(gradients, torch.autograd.grad(expected, truths, upstream.double()), strict=True):
        assert gradient.dtype == dtype
        assert_near(gradient, truth)


def test_impl_of_a_call_goes_before_the_current_choice(rng: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for name in ("aten", "triton"):
        monkeypatch.setitem(selection._REGISTRY["modulated_conv2d"], name, lambda *_, name=name: ran.append(name))
    (x, weight, styles, *_), _ = arguments(CASES["plain"], rng)
    with use("triton"):
        modulated_conv2d(x, weight, styles, impl="aten")
        modulated_conv2d(x, weight, styles)
    modulated_conv2d(x, weight, styles, impl="triton")
    assert ran == ["aten", "triton", "triton"]


@pytest.mark.usefixtures("implementation")
def test_weights_in_float32_beside_half_activations(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    (x, weight, styles, noise, bias), options = arguments(CASES["layer"], rng)
    y = call(x.half(), weight.float(), styles.float(), noise.half(), bias.half(), **options)
    assert y.dtype == torch.float16
    assert_near(y, definition(x.half().double(), weight, styles, noise, bias, **options))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4], ids="scale {:g}".format)
def test_float16_does_not_overflow(scale: float, rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    x = (torch.randn(2, 64, 8, 8, generator=rng) * 50).half()
    weight, styles = torch.randn(32, 64, 3, 3, generator=rng) * scale, torch.randn(2, 64, generator=rng) * 300
    y = modulated_conv2d(x, weight, styles, padding=1)
    assert_near(y, modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1, impl="aten"))


@pytest.mark.usefixtures("implementation")
def test_autocast_decides_the_dtype(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    tensors, options = arguments(CASES["layer"], rng)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        y = call(*(t.float() for t in tensors), **options)
    assert y.dtype == torch.bfloat16
    assert_near(y, definition(*tensors, **options))


@pytest.mark.usefixtures("implementation")
def test_layouts(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    tensors, options = arguments(CASES["up"], rng)
    x, *others = [t.float() for t in tensors]
    expected = definition(*tensors, **options)
    y = call(x.to(memory_format=torch.channels_last), *others, **options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, expected)
    strided = torch.stack([x, x], dim=4).reshape(3, 4, 6, 16)[..., ::2]
    assert_near(call(strided, *others, **options), expected)
    weight, styles, noise, bias = others
    assert call(x[:0], weight, styles[:0], noise[:0], bias, **options).shape == (0, *y.shape[1:])


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
    ],
    ids=["styles", "bias", "noise", "of another batch", "of another size", "too small", "next styles", "act"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    names = (
        dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(5, 4, 3, 3), styles=torch.zeros(2, 4), padding=1) | change
    )
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(names.pop("x"), names.pop("weight"), names.pop("styles"), **names)
