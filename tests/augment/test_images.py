"""Augmented images: derivatives of the whole pipe, kinds of images, and DiffAugment by its formulas."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.augment import PIPES
from smartfast.augment.ada import Augmentation
from smartfast.augment.corruptions import filter_bank, mirrored
from smartfast.augment.diff import DiffAugmentation, recolored, translated, with_hole
from smartfast.core.draws import Purpose
from smartfast.families.adversarial import r1_penalty

Augment = Callable[[Tensor, Tensor, Purpose], Tensor]
REALS = Purpose.AUGMENT_REALS


def augmentation(pipe: str, p: float = 0.7) -> Augment:
    made = torch.tensor(p)
    return DiffAugmentation(made, seed=4) if pipe == "diff" else Augmentation(PIPES[pipe], made, seed=4)


def images(n: int = 3, channels: int = 3, size: tuple[int, int] = (6, 6), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("pipe", ["bgcfnc", "diff"])
def test_second_derivatives_of_the_whole_pipe(pipe: str) -> None:
    """It is affine in the images: the gradient does not depend on them, so a product with them shows the second."""
    augment, stream = augmentation(pipe), torch.arange(3)
    x, dy = images().requires_grad_(), torch.randn(3, 3, 6, 6, dtype=torch.float64).requires_grad_()

    def f(x: Tensor) -> Tensor:
        return augment(x, stream, REALS)

    assert torch.autograd.gradcheck(f, x, fast_mode=True)
    (dx,) = torch.autograd.grad(f(x), x, dy, create_graph=True)
    v = torch.randn_like(x)
    (ddy,) = torch.autograd.grad(dx, dy, v)
    torch.testing.assert_close(ddy, f(v) - f(torch.zeros_like(v)), rtol=1e-9, atol=1e-9)


def weights_of_d(dtype: torch.dtype, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((width, 3, 3, 3), (1, width, 8, 8))
    return [(torch.randn(s, generator=generator) / 6).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("backend", [None, "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_r1_through_the_augmentation(backend: str | None) -> None:
    """Its value, and its gradient for the discriminator's weights, which is a second derivative of the augmentation."""
    augment, stream = augmentation("bgc"), torch.arange(4)

    def penalty(reals: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        def d(x: Tensor, c: None) -> Tensor:
            seen = augment(x, stream, Purpose.AUGMENT_REALS_AGAIN)
            return F.conv2d(F.softplus(F.conv2d(seen, first, padding=1)), last).flatten(1)

        value = r1_penalty(d, reals, None)
        return value.detach(), *torch.autograd.grad(value.mean(), [first, last])

    truth = penalty(images(4, size=(8, 8)).requires_grad_(), *weights_of_d(torch.float64))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        run = torch.compile(penalty, fullgraph=True, backend=backend) if backend else penalty
        found = run(images(4, size=(8, 8), dtype=torch.float32).requires_grad_(), *weights_of_d(torch.float32))
    for value, expected in zip(found, truth, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.sample(3)
@pytest.mark.parametrize("pipe", [*PIPES, "diff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_images(pipe: str, channels: int) -> None:
    """Odd sizes too; an image does not depend on those beside it."""
    x, stream = images(4, channels, (7, 10), torch.float32), torch.tensor([3, 1, 2**40, 5])
    augment = augmentation(pipe)
    whole = augment(x, stream, REALS)
    assert whole.shape == x.shape and whole.dtype == x.dtype
    assert (whole != x).any()
    for i in range(4):
        torch.testing.assert_close(augment(x[i : i + 1], stream[i : i + 1], REALS)[0], whole[i], rtol=1e-6, atol=1e-6)
    assert augment(x[:0], stream[:0], REALS).shape == (0, channels, 7, 10)


@pytest.mark.parametrize("pipe", ["color", "filter", "noise", "cutout", "diff"])
def test_images_stay_as_they_are_at_zero(pipe: str) -> None:
    x = images(dtype=torch.float32)
    torch.testing.assert_close(augmentation(pipe, 0.0)(x, torch.arange(3), REALS), x, rtol=1e-6, atol=1e-6)


def test_alpha_keeps_its_values_under_colours() -> None:
    x = images(8, 4, dtype=torch.float32)
    y = augmentation("color", 1.0)(x, torch.arange(8), REALS)
    assert torch.equal(y[:, 3], x[:, 3]) and not torch.equal(y[:, :3], x[:, :3])


def test_bands_sum_to_the_identity_and_mirror_as_often_as_it_takes() -> None:
    identity = torch.from_numpy(filter_bank()).sum(dim=0)
    expected = torch.zeros_like(identity)
    expected[len(expected) // 2] = 1
    torch.testing.assert_close(identity, expected, rtol=0, atol=1e-9)
    assert mirrored(3, 5, torch.device("cpu")).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    assert mirrored(1, 2, torch.device("cpu")).tolist() == [0] * 5


def test_diff_augment_by_its_formulas() -> None:
    x, u = images(dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    bright = x + (u - 0.5)[:, None, None, None]
    grey = bright.mean(dim=1, keepdim=True)
    saturated = (bright - grey) * (2 * u)[:, None, None, None] + grey
    mean = saturated.mean(dim=[1, 2, 3], keepdim=True)
    expected = (saturated - mean) * (u + 0.5)[:, None, None, None] + mean
    torch.testing.assert_close(recolored(x, u, u, u), expected)

    large = images(2, 1, (16, 16))
    moved = translated(large, torch.tensor([[0.99, 0.5], [0.5, 0.0]]))  # +2 to the right; -2 down, that is up
    torch.testing.assert_close(moved[0, 0, :, 2:], large[0, 0, :, :-2])
    torch.testing.assert_close(moved[1, 0, :-2], large[1, 0, 2:])
    assert not moved[0, 0, :, :2].any() and not moved[1, 0, -2:].any()

    holes = with_hole(torch.ones(3, 1, 8, 8), torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.99, 0.2]]))
    assert [int((holes[i] == 0).sum()) for i in range(3)] == [4, 16, 6]
