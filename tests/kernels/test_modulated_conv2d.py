"""Modulated convolution against one explicit weight per sample."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import bias_act, conv2d_resample, modulated_conv2d, setup_filter

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAMES = ("x", "weight", "styles", "noise", "bias")
FILTER = setup_filter([1, 3, 3, 1])


def definition(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor,
    bias: Tensor,
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
        images.append(conv2d_resample(image[None], w, **conv))
    return bias_act(torch.cat(images) + noise, bias, act=act, gain=gain, clamp=clamp)


CASES = {
    "plain": dict(padding=1),
    "not demodulated": dict(padding=1, demodulate=False),
    "torgb": dict(k=1, demodulate=False, clamp=2.0),
    "layer": dict(padding=1, act="lrelu", gain=1.4, clamp=1.5),
    "up": dict(padding=1, up=2, f=FILTER, flip_weight=False, act="swish", gain=2.0),
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


@pytest.mark.parametrize("name", ["layer", "up", "down", "torgb"])
def test_second_order(name: str, rng: torch.Generator) -> None:
    tensors, options = arguments(CASES[name], rng)
    x, weight, styles, noise, bias = tensors
    leaves = [x[:2, :, :4, :4], weight[:2], styles[:2], noise[:2, :, :2, :2], bias[:2]]
    size = [4 * options.get("up", 1) // options.get("down", 1)] * 2
    leaves[3] = torch.randn(2, 1, *size, generator=rng).double()
    leaves = [t.clone().requires_grad_() for t in leaves]
    assert gradcheck(lambda *t: call(*t, **options), leaves, fast_mode=True)
    assert gradgradcheck(lambda *t: call(*t, **options), leaves, fast_mode=True)


def test_weights_in_float32_beside_half_activations(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    (x, weight, styles, noise, bias), options = arguments(CASES["layer"], rng)
    y = call(x.half(), weight.float(), styles.float(), noise.half(), bias.half(), **options)
    assert y.dtype == torch.float16
    assert_near(y, definition(x.half().double(), weight, styles, noise, bias, **options))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4], ids="scale {:g}".format)
def test_float16_does_not_overflow(scale: float, rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    x = (torch.randn(2, 64, 8, 8, generator=rng) * 50).half()
    weight, styles = torch.randn(32, 64, 3, 3, generator=rng) * scale, torch.randn(2, 64, generator=rng) * 300
    y = modulated_conv2d(x, weight, styles, padding=1)
    assert_near(y, modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1))


def test_autocast_decides_the_dtype(rng: torch.Generator, assert_near: Callable[..., None]) -> None:
    tensors, options = arguments(CASES["layer"], rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = call(*(t.float() for t in tensors), **options)
    assert y.dtype == torch.bfloat16
    assert_near(y, definition(*tensors, **options))


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
        (dict(act="gelu"), "act is 'gelu'"),
    ],
    ids=["styles", "bias", "noise", "noise of another batch", "act"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    names = (
        dict(x=torch.zeros(2, 4, 8, 8), weight=torch.zeros(5, 4, 3, 3), styles=torch.zeros(2, 4), padding=1) | change
    )
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(names.pop("x"), names.pop("weight"), names.pop("styles"), **names)
