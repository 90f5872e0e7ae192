"""R1 of a discriminator and path length of a generator, made of the Triton ops, are those of aten.

In float64, to 1e-5: the gradients of whole networks are sums that cancel.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from smartfast.families.adversarial import r1_penalty
from smartfast.families.stylegan2.phases import path_length_penalty
from smartfast.kernels import use
from smartfast.networks.stylegan2 import Discriminator, Generator

pytestmark = pytest.mark.usefixtures("traced_autograd")
Step = Callable[[Tensor], tuple[Tensor, ...]]
SMALL = dict(resolution=8, channels=3, channel_base=32, channel_max=4)


def with_gradients(network: nn.Module, penalty: Callable[[Tensor], Tensor]) -> Step:
    """The mean penalty of a batch and its gradients for all parameters, as in `engine.with_gradients`."""
    parameters = list(network.parameters())

    def step(batch: Tensor) -> tuple[Tensor, ...]:
        loss = penalty(batch).mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), *gradients

    return step


def r1(rng: torch.Generator) -> tuple[Step, Tensor]:
    d = Discriminator(c_dim=0, mbstd_group=2, conv_clamp=256.0, **SMALL)
    randomise(d, rng)
    images = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64).requires_grad_()
    return with_gradients(d, lambda images: r1_penalty(d, images, None)), images


def path_length(rng: torch.Generator) -> tuple[Step, Tensor]:
    g = Generator(z_dim=4, c_dim=0, w_dim=4, mapping_layers=1, conv_clamp=256.0, **SMALL)
    randomise(g, rng)
    pixel_noise = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64)

    def penalty(z: Tensor) -> Tensor:
        options = dict(decay=0.01, mean_over_processes=lambda value: value)
        return path_length_penalty(g, g.mapping(z), "const", pixel_noise, z.new_zeros(()), **options)[0]

    return with_gradients(g, penalty), torch.randn(2, 4, generator=rng, dtype=torch.float64)


def randomise(network: nn.Module, rng: torch.Generator) -> None:
    """Make the network float64, and give biases and noise strengths, which start at zero, values that count."""
    network.double()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)


@pytest.mark.sample(2)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("build", [r1, path_length])
def test_second_order(
    build: Callable[..., tuple[Step, Tensor]],
    is_compiled: bool,
    rng: torch.Generator,
) -> None:
    step, batch = build(rng)
    with use("aten"):
        expected = step(batch)
    if is_compiled:
        step = torch.compile(step, fullgraph=True, backend="aot_eager")
    with use("triton"):
        actual = step(batch)
    assert expected[0] > 0 and sum(gradient.any() for gradient in expected) > len(expected) / 2
    for value, truth in zip(actual, expected, strict=True):
        if truth.any():
            assert (value - truth).norm() <= 1e-5 * truth.norm()
        else:
            assert not value.any()
