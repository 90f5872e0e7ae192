"""Every op inside torch.compile(fullgraph=True), with gradients of gradients traced, as the phases compute them."""

from collections.abc import Callable

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

pytestmark = pytest.mark.usefixtures("traced_autograd")
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


@pytest.mark.parametrize("name", OPS)
def test_second_order_is_that_of_eager_mode(
    name: str, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    op, shapes = OPS[name]
    tensors = [torch.randn(shape, generator=rng) for shape in ((2, 3, 5, 5), *shapes)]
    assert_within_budget(op, op, tensors, compiled=True)


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
