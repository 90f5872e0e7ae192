"""Every op over its whole argument space: what hypothesis makes up, against the formula in float64.

Values, gradients and second derivatives along random directions, by every implementation. The cases are the same in
every run; SMARTFAST_TEST_SLOW=1 tries many more.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from smartfast import kernels
from smartfast.kernels import ACTIVATIONS, INTERPRETED, Activation, Epilogue, Route, composite_spec, routes
from smartfast.kernels.bias_act import spec as bias_act_spec
from smartfast.kernels.conv2d import spec as conv_spec
from smartfast.kernels.conv2d.op import Convolution
from smartfast.kernels.epilogue import spec as epilogue_spec
from smartfast.kernels.philox import spec as philox_spec
from smartfast.kernels.score_noise import spec as score_spec
from smartfast.kernels.selection import implementation as implementation_named
from smartfast.kernels.upfirdn2d import spec as filter_spec
from smartfast.kernels.upfirdn2d.op import Resampling

SLOW = "SMARTFAST_TEST_SLOW" in os.environ
CASES = int(os.environ.get("SMARTFAST_TEST_CASES", 300 if SLOW else 5))
RANDOM = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.usefixtures("implementation")
ULPS, EVERY = 16, 16
FROM_RESULT, ULPS_OF_THOSE = ("tanh", "sigmoid", "elu", "selu", "softplus"), 64
"""Activations whose slope Triton computes from the result, as stylegan2-ada does: where it is all but 0, it errs by a
unit in the last place of 1, which is multiplied by gradients that may be far larger than what comes out."""

WIDE, HALF = [torch.float64, torch.float32], [torch.float16, torch.bfloat16]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "NCHW": lambda x: x,
    "NHWC": lambda x: x.to(memory_format=torch.channels_last),
    "columns": lambda x: torch.cat([x, x], dim=3)[..., ::2] if x.numel() else x,
    "channels of NHWC": lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, : x.shape[1]],
    "rows first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one for all": lambda x: x[:1].expand(x.shape) if len(x) else x,
}
BATCHES, SIZES, CHANNELS = st.sampled_from([1, 2, 3, 0]), st.integers(1, 9), st.sampled_from([1, 2, 3, 7, 8, 9, 16])
GAINS = st.sampled_from([1.0, 1.4, -1.5, 0.25])


class Numbers:
    """Draws of one case: tensors of unit normal numbers from a seed, in the case's dtype and layout."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
        self.dtype = data.draw(st.sampled_from(WIDE + HALF))
        self.is_half = self.dtype in HALF

    def tensor(self, *shape: int, wide: bool = False) -> Tensor:
        dtype = torch.promote_types(self.dtype, torch.float32) if wide else self.dtype
        return torch.randn(shape, generator=self.rng).to(dtype)

    def images(self, n: int, c: int, h: int, w: int) -> Tensor:
        return LAYOUTS[self.draw(st.sampled_from(list(LAYOUTS)))](self.tensor(n, c, h, w))

    def maybe(self, *shape: int, wide: bool = False) -> Tensor | None:
        return self.tensor(*shape, wide=wide) if self.draw(st.booleans()) else None

    def taps(self, width: int = 9, height: int = 5) -> Tensor | None:
        """None, a filter for both axes or a rectangle."""
        draw = self.draw
        shape = draw(st.sampled_from([(), (draw(st.integers(1, width)),), (draw(st.integers(1, height)),) * 2]))
        if len(shape) == 2:
            shape = (shape[0], draw(st.integers(1, height)))
        return torch.randn(shape, generator=self.rng) if shape else None

    def activation(self, *acts: str) -> Activation:
        draw = self.draw
        return Activation(
            draw(st.sampled_from(acts or list(ACTIVATIONS))),
            draw(st.sampled_from([0.2, 0.0, 1.5, -0.5])),
            draw(GAINS),
            draw(st.sampled_from([None, None, 0.8, 3.0])),
        )

    def epilogue(self, n: int, c: int, h: int, w: int) -> list[Tensor | None]:
        """demodulation, noise, bias and next_styles, each or None."""
        noise = self.draw(st.sampled_from([None, (h, w), (n, 1, h, w)]))
        return [
            self.maybe(n, c, wide=True),
            None if noise is None else self.tensor(*noise),
            self.maybe(c),
            self.maybe(n, c, wide=True),
        ]

    def order(self, activation: Activation) -> int:
        """Of the highest derivative that rounding does not make jump, where it moves a number across a kink."""
        is_smooth = activation.clamp is None and activation.act in ("linear", "tanh", "sigmoid", "softplus", "swish")
        return 2 if is_smooth or not self.is_half else 0


def pads_of(draw: Any, size: int, taps: int) -> tuple[int, int]:
    """Padding of an axis that leaves at least the filter, whichever side crops how much."""
    before = draw(st.integers(-14, 9))
    after = taps - size - before + draw(st.integers(0, 9))
    return (before, after) if draw(st.booleans()) else (after, before)


@pytest.fixture(params=["eager", "compiled"] if SLOW else ["eager"])
def check(request: pytest.FixtureRequest, assert_within_budget: Callable[..., Tensor]) -> Callable[..., None]:
    """`assert_within_budget`; compiled, with its gradients as one graph, one case in EVERY, for it takes seconds."""
    is_compiled, cases = request.param == "compiled", itertools.count()
    if is_compiled:
        request.getfixturevalue("traced_autograd")

    def check(*arguments: Any, ulps: int = ULPS, **options: Any) -> None:
        if is_compiled:
            if next(cases) % EVERY:
                return
            torch._dynamo.reset()
        assert_within_budget(*arguments, **options, compiled=is_compiled, ulps=ulps)

    return check


@given(st.data())
@RANDOM
def test_upfirdn2d(check: Callable[..., None], data: st.DataObject) -> None:
    case, draw, factors = Numbers(data), data.draw, st.tuples(st.integers(1, 4), st.integers(1, 4))
    n, c, h, w = draw(st.tuples(BATCHES, CHANNELS, SIZES, SIZES))
    f, up, down = case.taps(), draw(factors), draw(factors)
    fw, fh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    pads = (*pads_of(draw, w * up[0], fw), *pads_of(draw, h * up[1], fh))
    options = dict(flip_filter=draw(st.booleans()), gain=draw(GAINS))
    x = case.images(n, c, h, w)
    check(
        lambda x: kernels.upfirdn2d(x, f, up=up, down=down, padding=pads, **options),
        lambda x: filter_spec.upfirdn2d(x, f, Resampling(up, down, pads, **options)),
        [x],
    )


@given(st.data())
@RANDOM
def test_bias_act(check: Callable[..., None], data: st.DataObject) -> None:
    case, draw = Numbers(data), data.draw
    shape = draw(st.lists(st.integers(0, 5), min_size=0, max_size=5))
    activation = case.activation()
    x = (case.images(*shape) if len(shape) == 4 else case.tensor(*shape)) * draw(st.sampled_from([1, 0.001, 30]))
    dim = draw(st.integers(-len(shape), len(shape) - 1)) if shape else 0
    b = case.maybe(shape[dim], wide=draw(st.booleans())) if shape else None
    act, alpha, gain, clamp = activation
    check(
        lambda x, b: kernels.bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp),
        lambda x, b: bias_act_spec.bias_act(x, b if b is None else b.to(x.dtype), dim, activation),
        [x, b],
        order=case.order(activation),
    )


@given(st.data())
@RANDOM
def test_finish(check: Callable[..., None], data: st.DataObject) -> None:
    case = Numbers(data)
    shape = case.draw(st.tuples(BATCHES, CHANNELS, SIZES, SIZES))
    activation = case.activation()
    check(
        lambda z, *tensors: kernels.finish(z, Epilogue(*tensors, activation)),
        lambda z, *tensors: epilogue_spec.finish(z, Epilogue(*tensors, activation)),
        [case.images(*shape), *case.epilogue(*shape)],
        order=case.order(activation),
    )


@given(st.data())
@RANDOM
def test_upfirdn2d_and_finish(implementation: str, check: Callable[..., None], data: st.DataObject) -> None:
    case, draw = Numbers(data), data.draw
    n, c, h, w = draw(st.tuples(st.integers(1, 2), CHANNELS, SIZES, SIZES))
    f, up, down = case.taps(), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    fw, fh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    pads = (*pads_of(draw, w * up, fw), *pads_of(draw, h * up, fh))
    resampling = Resampling((up, up), (down, down), pads, draw(st.booleans()), draw(GAINS))
    activation = case.activation()
    op = implementation_named("upfirdn2d_finish", implementation)
    check(
        lambda x, *tensors: op(x, f, resampling, Epilogue(*tensors, activation)),
        lambda x, *tensors: epilogue_spec.finish(
            filter_spec.upfirdn2d(x, f, resampling), Epilogue(*tensors, activation)
        ),
        [case.images(n, c, h, w), *case.epilogue(n, c, *resampling.size(f, h, w))],
        order=case.order(activation),
    )


@given(st.data())
@RANDOM
def test_conv2d(check: Callable[..., None], data: st.DataObject) -> None:
    case, draw = Numbers(data), data.draw
    n, h, w = draw(st.tuples(BATCHES, SIZES, SIZES))
    groups, c, o = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    is_transposed, stride = draw(st.booleans()), draw(st.integers(1, 3))
    kh, kw = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    if is_transposed:  # crops what the result has
        pads = [draw(st.integers(0, ((size - 1) * stride + k - 1) // 2)) for size, k in ((h, kh), (w, kw))]
    else:
        pads = [(max(k - size, 0) + 1) // 2 + draw(st.integers(0, 3)) for size, k in ((h, kh), (w, kw))]
    convolution = Convolution(stride, (pads[0], pads[1]), groups, is_transposed)
    shape = (c * groups, o, kh, kw) if is_transposed else (o * groups, c, kh, kw)
    check(
        lambda x, weight: kernels.conv2d(x, weight, **convolution._asdict()),
        lambda x, weight: conv_spec.conv2d(x, weight, convolution),
        [case.images(n, c * groups, h, w), case.images(*shape)],
    )


def resampled(case: Numbers, h: int, w: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Height and width of a weight, and what a convolution with resampling takes beside it."""
    draw = case.draw
    kh, kw = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (4, 1)]))
    f, up, down = case.taps(5, 4), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    fw, fh = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    # Aligned filters take nothing from the image.
    pads = (*pads_of(draw, w * up, kw + fw), *pads_of(draw, h * up, kh + fh))
    flips = dict(flip_weight=draw(st.booleans()), flip_filter=draw(st.booleans()))
    return (kh, kw), dict(f=f, up=up, down=down, padding=pads, **flips)


@given(st.data())
@RANDOM
def test_conv2d_resample(check: Callable[..., None], data: st.DataObject) -> None:
    case = Numbers(data)
    n, h, w, groups, c, o = case.draw(st.tuples(BATCHES, SIZES, SIZES, *[st.integers(1, 3)] * 3))
    kernel, options = resampled(case, h, w)
    check(
        lambda x, weight: kernels.conv2d_resample(x, weight, groups=groups, **options),
        lambda x, weight: composite_spec.conv2d_resample(x, weight, groups=groups, **options),
        [case.images(n, c * groups, h, w), case.tensor(o * groups, c, *kernel)],
    )


@pytest.mark.parametrize(
    ("implementation", "route"),
    [("aten", "library"), ("triton", "library"), ("triton", "gemm")],
    indirect=["implementation"],
)
@given(st.data())
@RANDOM
def test_modulated_conv2d(route: str, check: Callable[..., None], data: st.DataObject) -> None:
    case, draw = Numbers(data), data.draw
    n, c, o, h, w = draw(st.tuples(st.integers(1, 3), CHANNELS, st.integers(1, 5), SIZES, SIZES))
    kernel, options = resampled(case, h, w)
    if route == "gemm":
        assume(case.dtype != torch.bfloat16 or not INTERPRETED)  # whose products of bfloat16 are wrong
        kernel = (draw(st.sampled_from([1, 3])),) * 2
        options |= dict(up=1, down=1, padding=kernel[0] // 2)
    options["demodulate"] = draw(st.booleans()) and c > 1  # which undoes the style of a single channel
    activation = case.activation()
    weight, styles = case.tensor(o, c, *kernel, wide=True), case.tensor(n, c, wide=True)
    x = case.images(n, c, h, w)
    z = composite_spec.conv2d_resample(x, weight.to(x.dtype), **{k: v for k, v in options.items() if k != "demodulate"})
    _, *others = case.epilogue(n, o, *z.shape[2:])
    act, alpha, gain, clamp = activation
    if route == "gemm" and act in ("linear", "relu", "lrelu"):
        alpha, gain = abs(alpha), abs(gain)
    settings = dict(act=act, alpha=alpha, gain=gain, clamp=clamp)

    def op(x: Tensor, weight: Tensor, styles: Tensor, *tensors: Tensor | None) -> Tensor:
        noise, bias, next_styles = tensors
        return kernels.modulated_conv2d(
            x, weight, styles, noise=noise, bias=bias, next_styles=next_styles, **settings, **options
        )

    def formula(x: Tensor, weight: Tensor, styles: Tensor, *tensors: Tensor | None) -> Tensor:
        epilogue = Epilogue(None, *tensors, Activation(act, alpha, gain, clamp))
        return composite_spec.modulated_conv2d(x, weight.to(x.dtype), styles.to(x.dtype), epilogue, **options)

    ulps = ULPS_OF_THOSE if act in FROM_RESULT else ULPS
    with patch.object(routes, "measured_route", lambda *_: Route(route, "for this test")):
        check(op, formula, [x, weight, styles, *others], order=case.order(activation), cancels=True, ulps=ulps)


@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    streams=st.lists(st.integers(0, 2**63 - 1), max_size=3),
    count=st.integers(0, 50),
    purpose=st.integers(0, 2**32 - 1),
)
@RANDOM
def test_philox(seed: int, streams: list[int], count: int, purpose: int) -> None:
    stream = torch.tensor(streams, dtype=torch.int64)
    words = [philox_spec.words(seed % 2**64, s, count, purpose) for s in streams]
    assert kernels.philox_words(seed, stream, count, purpose).tolist() == words
    uniform = torch.tensor(words, dtype=torch.float64).reshape(len(streams), count).div(256).floor() / 2**24
    assert torch.equal(kernels.philox_uniform(seed, stream, count, purpose).double(), uniform)
    normal = kernels.philox_normal(seed, stream, count, purpose)
    truth = [philox_spec.normal(seed % 2**64, s, count, purpose) for s in streams]
    assert not normal.numel() or (normal.double() - torch.stack(truth)).abs().max() <= 6e-6


@given(st.data())
@RANDOM
def test_noise_and_distance(check: Callable[..., None], data: st.DataObject) -> None:
    case, draw = Numbers(data), data.draw
    n, c, h, w = shape = draw(st.tuples(BATCHES, st.sampled_from([1, 2, 3, 4]), SIZES, SIZES))
    key = dict(seed=draw(st.integers(0, 2**64 - 1)), purpose=draw(st.integers(0, 2**32 - 1)))
    key["stream"] = torch.tensor(draw(st.lists(st.integers(0, 2**63 - 1), min_size=n, max_size=n)), dtype=torch.int64)
    angle = (0.2 + torch.rand(n, generator=case.rng)).to(torch.promote_types(case.dtype, torch.float32))
    alpha, sigma = angle.cos(), angle.sin()
    eps = kernels.philox_normal(key["seed"], key["stream"], c * h * w, key["purpose"]).reshape(shape).double()
    check(
        lambda x, alpha: kernels.noise_forward(x, alpha, sigma, **key),
        lambda x, alpha: score_spec.noise_forward(x, alpha, sigma, eps),
        [case.images(*shape), alpha],
    )
    kind, in_eps, weight = draw(st.sampled_from(["eps", "x0", "v"])), draw(st.booleans()), case.maybe(n, wide=True)

    def distance(prediction: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
        options = dict(parameterization=kind, x=x, alpha=alpha, sigma=sigma, in_eps=in_eps)
        return kernels.denoise_distance(prediction, weight=weight, **options, **key)

    def formula(prediction: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
        """In at least float32, as the op says it computes."""
        prediction, x = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (prediction, x))
        a, s = (t.to(x.dtype)[:, None, None, None] for t in (alpha, sigma))
        noise = eps.to(x.dtype)
        target = {"eps": noise + 0 * x, "x0": x, "v": a * noise - s * x}[kind]
        factor = {"eps": alpha / alpha, "x0": alpha / sigma, "v": alpha}[kind].square() if in_eps else alpha / alpha
        return score_spec.denoise_distance(prediction, target, factor if weight is None else factor * weight)

    x, prediction = case.images(*shape), case.images(*shape)
    if kind == "eps":
        check(lambda p, w: distance(p, x, w), lambda p, w: formula(p, x, w), [prediction, weight])
    else:
        check(distance, formula, [prediction, x, weight])
    options = dict(parameterization=kind, x=x, alpha=alpha, sigma=sigma, in_eps=in_eps, weight=weight)
    found, gradient = kernels.denoise_distance_and_gradient(prediction, **options, **key)
    leaf = prediction.detach().requires_grad_()
    expected = distance(leaf, x, weight)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])
