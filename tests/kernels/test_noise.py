"""Noising and the distance to the noise, with the noise in closed form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from smartfast.kernels import denoise_distance, noise_forward, philox_normal

SEED, PURPOSE = 11, 3
STREAM = torch.tensor([5, 2**33, 0])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def eps(shape: tuple[int, ...], stream: Tensor = STREAM) -> Tensor:
    return philox_normal(SEED, stream, shape[1] * shape[2] * shape[3], PURPOSE).reshape(shape).double()


def per_image(level: Tensor) -> Tensor:
    return level.double()[:, None, None, None]


@pytest.fixture
def levels(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(3, generator=rng), torch.rand(3, generator=rng)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_forward(
    dtype: torch.dtype, levels: tuple[Tensor, Tensor], rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    alpha, sigma = levels
    x = torch.randn(3, 2, 5, 7, generator=rng).to(dtype).requires_grad_()
    y = noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM, purpose=PURPOSE)
    assert y.dtype == dtype
    assert_near(y, per_image(alpha) * x.detach().double() + per_image(sigma) * eps(x.shape))
    upstream = torch.randn(y.shape, generator=rng).to(dtype)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert_near(gradient, per_image(alpha) * upstream.double())


def test_noise_forward_is_computed_before_rounding(levels: tuple[Tensor, Tensor], rng: torch.Generator) -> None:
    alpha, sigma = levels
    x = torch.randn(3, 2, 4, 4, generator=rng)
    full = noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM)
    half = noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM, dtype=torch.bfloat16)
    assert torch.equal(half, full.bfloat16())


def test_noise_belongs_to_the_sample_not_to_the_batch(levels: tuple[Tensor, Tensor], rng: torch.Generator) -> None:
    alpha, sigma = levels
    x = torch.randn(3, 2, 3, 5, generator=rng)
    whole = noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM)
    parts = [noise_forward(x[i], alpha[i], sigma[i], seed=SEED, stream=STREAM[i]) for i in (slice(0, 1), slice(1, 3))]
    assert torch.equal(whole, torch.cat(parts))
    channels_last = noise_forward(x.to(memory_format=torch.channels_last), alpha, sigma, seed=SEED, stream=STREAM)
    assert torch.equal(whole, channels_last)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_denoise_distance(
    dtype: torch.dtype, weighted: bool, rng: torch.Generator, assert_near: Callable[..., None]
) -> None:
    prediction = torch.randn(3, 2, 5, 7, generator=rng).to(dtype).requires_grad_()
    weight = torch.rand(3, generator=rng) if weighted else None
    distance = denoise_distance(prediction, seed=SEED, stream=STREAM, purpose=PURPOSE, weight=weight)
    w = torch.ones(3).double() if weight is None else weight.double()
    error = prediction.detach().double() - eps(prediction.shape)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_near(distance, w * error.square().sum(dim=[1, 2, 3]) / 70, dtype)
    upstream = torch.randn(3, generator=rng).to(distance.dtype)
    (gradient,) = torch.autograd.grad(distance, prediction, upstream)
    assert_near(gradient, (upstream.double() * w)[:, None, None, None] * 2 / 70 * error)


def test_gradients_of_every_order(rng: torch.Generator) -> None:
    x, other = (torch.randn(3, 1, 2, 3, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    alpha, sigma, weight = (torch.rand(3, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def forward(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM)

    def distance(prediction: Tensor, weight: Tensor) -> Tensor:
        return denoise_distance(prediction, seed=SEED, stream=STREAM, weight=weight)

    for op, arguments in ((forward, (x, alpha, sigma)), (distance, (other, weight))):
        assert gradcheck(op, arguments)
        assert gradgradcheck(op, arguments)


def test_the_exact_prediction_has_no_distance(levels: tuple[Tensor, Tensor]) -> None:
    alpha, sigma = torch.zeros(3), torch.ones(3)
    noise = noise_forward(torch.zeros(3, 1, 4, 4), alpha, sigma, seed=SEED, stream=STREAM)
    assert denoise_distance(noise, seed=SEED, stream=STREAM).tolist() == [0, 0, 0]
    assert (denoise_distance(noise, seed=SEED + 1, stream=STREAM) > 0.5).all()
    assert (denoise_distance(noise, seed=SEED, stream=STREAM, purpose=1) > 0.5).all()


def test_empty_batch() -> None:
    x, none, stream = torch.zeros(0, 1, 4, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert noise_forward(x, none, none, seed=0, stream=stream).shape == x.shape
    assert denoise_distance(x, seed=0, stream=stream).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 4)), "x is torch.float32"),
        (dict(stream=torch.zeros(3)), "stream is torch.float32"),
        (dict(stream=torch.zeros(2, dtype=torch.int64)), "stream is torch.int64"),
        (dict(alpha=torch.ones(3, 1)), "alpha is torch.float32"),
        (dict(sigma=torch.ones(3, dtype=torch.int64)), "sigma is torch.int64"),
    ],
    ids=["x", "stream dtype", "stream length", "alpha", "sigma"],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments = dict(x=torch.zeros(3, 1, 4, 4), alpha=torch.ones(3), sigma=torch.ones(3), stream=STREAM) | change
    with pytest.raises(ValueError, match=message):
        noise_forward(**arguments, seed=0)
