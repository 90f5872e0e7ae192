"""Gradients of noising and of the distance to the noise: every order, compiled, in place, and nothing but them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from smartfast.kernels import denoise_distance, denoise_distance_and_gradient, noise_forward, use
from smartfast.kernels.score_noise import triton as triton_score_noise

pytestmark = pytest.mark.usefixtures("implementation")

DEVICE = torch.get_default_device().type
SEED, PURPOSE = 11, 3
STREAM = torch.tensor([5, 2**33, 0], device=DEVICE)
NOISE = dict(seed=SEED, stream=STREAM, purpose=PURPOSE)
ODD = (3, 2, 5, 7)


def randn(rng: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=rng).to(DEVICE, dtype)


def angles(rng: torch.Generator, count: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """alpha and sigma with alpha^2 + sigma^2 = 1."""
    angle = (0.2 + torch.rand(count, generator=rng)).to(DEVICE, dtype)
    return angle.cos(), angle.sin()


def test_direct_gradient_of_x_is_a_multiple(rng: torch.Generator) -> None:
    alpha, sigma = angles(rng)
    x, prediction = randn(rng, *ODD).requires_grad_(), randn(rng, *ODD)
    for parameterization, factor in (("x0", -torch.ones_like(sigma)), ("v", sigma)):
        options = dict(parameterization=parameterization, x=x, alpha=alpha, sigma=sigma, **NOISE)
        (expected,) = torch.autograd.grad(denoise_distance(prediction, **options).sum(), x)
        _, gradient = denoise_distance_and_gradient(prediction, **options)
        assert torch.allclose(factor[:, None, None, None] * gradient, expected, rtol=1e-5, atol=1e-7)


def gradient_cases(rng: torch.Generator) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Ops and arguments, all of which get gradients."""
    x, other = (randn(rng, 1, 2, 1, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    alpha, sigma, weight = (torch.rand(1, generator=rng).to(DEVICE, torch.float64).requires_grad_() for _ in range(3))
    noise = dict(seed=SEED, stream=STREAM[:1])

    def forward(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise_forward(x, alpha, sigma, **noise)

    def distance(prediction: Tensor, weight: Tensor) -> Tensor:
        return denoise_distance(prediction, weight=weight, **noise)

    def distance_x0(prediction: Tensor, x: Tensor) -> Tensor:
        options = dict(alpha=alpha.detach(), sigma=sigma.detach())
        return denoise_distance(prediction, parameterization="x0", x=x, **options, **noise)

    def distance_v(prediction: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return denoise_distance(prediction, parameterization="v", x=x, alpha=alpha, sigma=sigma, **noise)

    return {
        "noise_forward": (forward, (x, alpha, sigma)),
        "eps": (distance, (other, weight)),
        "x0": (distance_x0, (other, x)),
        "v": (distance_v, (other, x, alpha, sigma)),
    }


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["noise_forward", "eps", "x0", "v"])
def test_gradients_of_every_order(name: str, rng: torch.Generator) -> None:
    op, arguments = gradient_cases(rng)[name]
    assert gradcheck(op, arguments, fast_mode=True, check_undefined_grad=False)
    assert gradgradcheck(op, arguments, fast_mode=True, check_undefined_grad=False)


class Recorder(TorchDispatchMode):
    """Names of the ops of at least one image that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(a, Tensor) and a.ndim == 4 for a in args):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_backward_passes_compute_nothing_that_is_not_asked_for(implementation: str, rng: torch.Generator) -> None:
    if implementation == "aten":
        pytest.skip("aten is made of PyTorch's own functions")
    x, prediction = (randn(rng, *ODD).requires_grad_() for _ in range(2))
    alpha, sigma = angles(rng)
    upstream = randn(rng, *ODD)
    y, distance = noise_forward(x, alpha, sigma, **NOISE), denoise_distance(prediction, **NOISE)
    with Recorder() as recorder:
        torch.autograd.grad(y, x, upstream)
        torch.autograd.grad(distance, prediction, torch.ones_like(distance))
    ours = [name for name in recorder.names if "detach" not in name]
    assert ours == ["smartfast.scale_images.default", "smartfast.denoise_residual.default"]


def network(last: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1), last).to(DEVICE)


@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_overwritten_prediction_leads_to_the_right_gradient(compiled: bool, rng: torch.Generator) -> None:
    x, weight = randn(rng, *ODD).requires_grad_(), angles(rng)[0]
    net = network(nn.Identity())

    def in_place(x: Tensor) -> tuple[Tensor, Tensor]:
        prediction = net(x)
        distance, gradient = denoise_distance_and_gradient(prediction, weight=weight, overwrite=True, **NOISE)
        return distance, torch.autograd.grad(prediction, x, gradient)[0]

    run = torch.compile(in_place, fullgraph=True, backend="aot_eager") if compiled else in_place
    distance, gradient = run(x)
    expected = denoise_distance(net(x), weight=weight, **NOISE)
    assert torch.allclose(distance, expected, rtol=1e-5, atol=0)
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), x)[0], rtol=1e-5, atol=1e-7)
    assert not distance.requires_grad and not gradient.requires_grad


def test_overwriting_what_the_backward_pass_needs_is_an_error(rng: torch.Generator) -> None:
    x = randn(rng, *ODD).requires_grad_()
    prediction = network(nn.Tanh())(x)
    _, gradient = denoise_distance_and_gradient(prediction, overwrite=True, **NOISE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(prediction, x, gradient)


def test_an_expanded_prediction_is_not_overwritten() -> None:
    prediction = torch.zeros(1, 1, 2, 2, device=DEVICE).expand(3, 1, 2, 2)
    with pytest.raises(ValueError, match="prediction is expanded"):
        denoise_distance_and_gradient(prediction, overwrite=True, **NOISE)


@pytest.mark.sample(3)
@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_second_order_of_a_network_between(
    parameterization: str, compiled: bool, rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    """The distance of what a network (a square) makes of noised images, as a function of the images."""
    alpha, sigma = angles(rng)

    def distance(x: Tensor) -> Tensor:
        x_t = noise_forward(x, alpha, sigma, **NOISE)
        options = dict(parameterization=parameterization, x=x, alpha=alpha, sigma=sigma)
        return denoise_distance(x_t.square(), **options, **NOISE)

    def formula(x: Tensor) -> Tensor:
        with use("aten"):
            return distance(x)

    assert_within_budget(distance, formula, [randn(rng, *ODD)], compiled=compiled)


@pytest.mark.sample(4)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["noise_forward", "scale", "distance", "residual", "gradient", "in place"])
def test_opcheck(name: str, layout: str, implementation: str, rng: torch.Generator) -> None:
    if implementation == "aten":
        pytest.skip("aten is no custom op")
    memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    x, prediction = (
        randn(rng, *ODD).to(memory_format=memory_format).requires_grad_(name != "in place") for _ in range(2)
    )
    alpha, sigma, factor = (torch.rand(3, generator=rng).to(DEVICE).requires_grad_() for _ in range(3))
    detached = (x.detach(), alpha.detach(), sigma.detach(), STREAM, SEED, PURPOSE, factor.detach())
    op, arguments = {
        "noise_forward": (triton_score_noise.noise_forward_op, (x, alpha, sigma, STREAM, SEED, PURPOSE, torch.float32)),
        "scale": (triton_score_noise.scale_images_op, (x, alpha, torch.float64)),
        "distance": (triton_score_noise.denoise_distance_op, (prediction, x, alpha, sigma, STREAM, SEED, PURPOSE)),
        "residual": (
            triton_score_noise.denoise_residual_op,
            (prediction, x, alpha, sigma, STREAM, SEED, PURPOSE, factor, torch.float32),
        ),
        "gradient": (triton_score_noise.distance_and_gradient_op, (prediction.detach(), *detached)),
        "in place": (triton_score_noise.distance_and_gradient_in_place_op, (prediction, *detached)),
    }[name]
    torch.library.opcheck(op, arguments)
