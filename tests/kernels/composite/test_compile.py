"""Every op inside torch.compile(fullgraph=True), with gradients of gradients traced, as the phases compute them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from smartfast.kernels import (
    bias_act,
    conv2d_resample,
    denoise_distance,
    modulated_conv2d,
    noise_forward,
    setup_filter,
    upsample2d,
)

FILTER = setup_filter([1, 3, 3, 1])
STREAM = torch.tensor([4, 2**35])
LEVEL = torch.tensor([0.3, 0.8])


def layer(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    noise = torch.linspace(-1, 1, 100).reshape(10, 10)
    options = dict(up=2, padding=1, f=FILTER, flip_weight=False, act="lrelu", gain=1.4, clamp=2.0)
    return modulated_conv2d(x, weight, styles, noise=noise, bias=bias, **options)


OPS = {
    "upfirdn2d": (lambda x: upsample2d(x, FILTER) ** 2, []),
    "bias_act": (lambda x, b: bias_act(x, b, act="swish", clamp=0.9), [(3,)]),
    "conv2d_resample": (lambda x, w: conv2d_resample(x, w, f=FILTER, down=2, padding=1) ** 2, [(4, 3, 3, 3)]),
    "modulated_conv2d": (layer, [(4, 3, 3, 3), (2, 3), (4,)]),
    "noise_forward": (lambda x: noise_forward(x, LEVEL, LEVEL, seed=1, stream=STREAM) ** 2, []),
    "denoise_distance": (lambda x: denoise_distance(x, seed=1, stream=STREAM, weight=LEVEL), []),
}


@pytest.fixture(autouse=True)
def traced_autograd() -> Iterator[None]:
    """torch.autograd.grad inside a compiled function needs this private switch."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", OPS)
def test_second_order_is_that_of_eager_mode(
    name: str, rng: torch.Generator, second_order: Callable[..., list[Tensor]], assert_near: Callable[..., None]
) -> None:
    op, shapes = OPS[name]
    x = torch.randn(2, 3, 5, 5, generator=rng).requires_grad_()
    others = [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]
    upstream = torch.randn(op(x, *others).shape, generator=rng).requires_grad_()
    v = torch.randn(x.shape, generator=rng)

    def phase(x: Tensor, upstream: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = op(x, *others)
        (dx,) = torch.autograd.grad(y, x, upstream, create_graph=True)
        return y, dx, (dx * v).sum()

    y, dx, s = torch.compile(phase, fullgraph=True, backend="aot_eager")(x, upstream, *others)
    rest = torch.autograd.grad(s, [upstream, *others], allow_unused=True)
    expected = second_order(op, x, others, upstream, v)
    for actual, truth in zip([y, dx, *rest], expected, strict=True):
        if actual is None or not truth.any():
            assert actual is None or not actual.any()
            assert not truth.any()
        else:
            assert_near(actual, truth)


def test_the_private_switch_still_exists_and_is_needed() -> None:
    """What the engine's compiled phases rely on, checked on the installed torch."""

    def penalty(x: Tensor, w: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad((x * w).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    x = torch.tensor([1.0, -2.0], requires_grad=True)
    w = torch.tensor([3.0, 0.5], requires_grad=True)
    (dw,) = torch.autograd.grad(torch.compile(penalty, fullgraph=True, backend="aot_eager")(x, w), w)
    assert torch.allclose(dw, 16 * x.detach() ** 2 * w.detach() ** 3)  # d/dw of (2 x w^2)^2
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=False), pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(penalty, fullgraph=True, backend="aot_eager")(x, w)
