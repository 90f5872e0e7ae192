"""Noising and the distance to the noise, by both implementations, with the noise in closed form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smartfast.kernels import denoise_distance, denoise_distance_and_gradient, noise_forward
from smartfast.kernels.philox import spec as philox_spec
from smartfast.kernels.score_noise import spec
from smartfast.scorers import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_config
from smartfast.scorers.term import score_loss

pytestmark = pytest.mark.usefixtures("implementation")

DEVICE = torch.get_default_device().type
SEED, PURPOSE = 11, 3
STREAM = torch.tensor([5, 2**33, 0], device=DEVICE)
NOISE = dict(seed=SEED, stream=STREAM, purpose=PURPOSE)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ODD, TAILS = (3, 2, 5, 7), (3, 3, 37, 41)


def eps(shape: tuple[int, ...], stream: Tensor = STREAM) -> Tensor:
    """The noise as the implementation draws it, float64: `test_noise_is_that_of_philox` says what it is."""
    zero, one = torch.zeros(shape[0], device=DEVICE), torch.ones(shape[0], device=DEVICE)
    images = torch.zeros(shape, device=DEVICE)
    return noise_forward(images, zero, one, seed=SEED, stream=stream, purpose=PURPOSE).double()


def per_image(level: Tensor) -> Tensor:
    return level.double()[:, None, None, None]


def randn(rng: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=rng).to(DEVICE, dtype)


def angles(rng: torch.Generator, count: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """alpha and sigma with alpha^2 + sigma^2 = 1."""
    angle = (0.2 + torch.rand(count, generator=rng)).to(DEVICE, dtype)
    return angle.cos(), angle.sin()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "NHWC": lambda x: x.to(memory_format=torch.channels_last),
    "channels of NCHW": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "channels of NHWC": lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, : x.shape[1]],
    "columns": lambda x: torch.cat([x, x], dim=3)[..., : x.shape[3]],
    "rows first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("shape", "seed", "purpose"),
    [(ODD, 2**64 - 3, 2**32 - 1), (TAILS, SEED, 0), ((3, 3, 8, 8), 1, 1), ((3, 1, 1, 1), 0, 0)],
    ids=["odd", "tails", "whole", "one"],
)
def test_noise_is_that_of_philox(shape: tuple[int, ...], seed: int, purpose: int, layout: str) -> None:
    images = LAYOUTS.get(layout, torch.clone)(torch.zeros(shape, device=DEVICE))
    one = torch.ones(3, device=DEVICE)
    drawn = noise_forward(images, one, one, seed=seed, stream=STREAM, purpose=purpose)
    rows = [philox_spec.normal(seed, stream, images[0].numel(), purpose) for stream in STREAM.tolist()]
    assert (drawn.cpu() - torch.stack(rows).cpu().reshape(shape)).abs().max() <= 6e-6  # as `philox_normal` says


@pytest.mark.parametrize("shape", [ODD, TAILS], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_forward(
    dtype: torch.dtype, shape: tuple[int, ...], rng: torch.Generator, assert_within_budget: Callable[..., Tensor]
) -> None:
    alpha, sigma = angles(rng)  # sigma's gradient knows the noise to float32 only, see `philox_normal`

    def op(x: Tensor, alpha: Tensor) -> Tensor:
        return noise_forward(x, alpha, sigma, **NOISE)

    def formula(x: Tensor, alpha: Tensor) -> Tensor:
        return spec.noise_forward(x, alpha, sigma, eps(shape))

    y = assert_within_budget(op, formula, [randn(rng, *shape, dtype=dtype), alpha])
    assert y.dtype == dtype


def test_noise_forward_is_computed_before_rounding(rng: torch.Generator) -> None:
    x = randn(rng, 3, 2, 4, 4)
    full = noise_forward(x, *angles(rng), seed=SEED, stream=STREAM)
    half = noise_forward(
        x, *angles(torch.Generator(DEVICE).manual_seed(1)), seed=SEED, stream=STREAM, dtype=torch.float16
    )
    again = noise_forward(x, *angles(torch.Generator(DEVICE).manual_seed(1)), seed=SEED, stream=STREAM)
    assert torch.equal(half, again.half())
    assert full.dtype == torch.float32


def test_noise_belongs_to_the_sample_not_to_the_batch(rng: torch.Generator) -> None:
    alpha, sigma = angles(rng)
    x = randn(rng, 3, 2, 3, 5)
    whole = noise_forward(x, alpha, sigma, seed=SEED, stream=STREAM)
    parts = [noise_forward(x[i], alpha[i], sigma[i], seed=SEED, stream=STREAM[i]) for i in (slice(0, 1), slice(1, 3))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_changes_no_value(layout: str, rng: torch.Generator) -> None:
    alpha, sigma = angles(rng)
    x, prediction = randn(rng, *ODD), randn(rng, *ODD)
    stored = LAYOUTS[layout](prediction)
    noised = noise_forward(stored, alpha, sigma, **NOISE)
    assert torch.equal(noised, noise_forward(prediction, alpha, sigma, **NOISE))
    assert layout != "NHWC" or noised.is_contiguous(memory_format=torch.channels_last)
    expected = denoise_distance_and_gradient(prediction, parameterization="v", x=x, alpha=alpha, sigma=sigma, **NOISE)
    for images in (x, LAYOUTS["NHWC"](x)):
        options = dict(parameterization="v", x=images, alpha=alpha, sigma=sigma, **NOISE)
        assert torch.allclose(denoise_distance(stored, **options), expected[0], rtol=1e-6, atol=0)
        for overwrite in (False, True):
            found = denoise_distance_and_gradient(stored.clone(), overwrite=overwrite, **options)
            for actual, truth in zip(found, expected, strict=True):
                assert torch.allclose(actual, truth, rtol=1e-6, atol=1e-7)
    distance, gradient = denoise_distance_and_gradient(stored, overwrite=True, **options)
    assert gradient.data_ptr() == stored.data_ptr() and torch.equal(gradient, stored)
    assert torch.allclose(gradient, expected[1], rtol=1e-6, atol=1e-7)


def test_factors_and_gradients_of_any_stride(rng: torch.Generator) -> None:
    x = randn(rng, *ODD).requires_grad_()
    levels = torch.rand(3, 2, generator=rng).to(DEVICE)
    alpha, sigma = levels.unbind(dim=1)
    loss = noise_forward(x, alpha, sigma, **NOISE).sum() + denoise_distance(x, weight=alpha, **NOISE).sum()
    dense = noise_forward(x, alpha.clone(), sigma.clone(), **NOISE)
    expected = (dense * 1.0).sum() + (denoise_distance(x, weight=alpha.clone(), **NOISE) * 1.0).sum()
    assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)))


@pytest.mark.sample(2)
@pytest.mark.parametrize("shape", [ODD, TAILS], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_denoise_distance(
    dtype: torch.dtype,
    weighted: bool,
    shape: tuple[int, ...],
    rng: torch.Generator,
    assert_within_budget: Callable[..., Tensor],
    within_budget: Callable[..., None],
) -> None:
    weight = angles(rng)[0] if weighted else None

    def op(prediction: Tensor, weight: Tensor | None) -> Tensor:
        return denoise_distance(prediction, weight=weight, **NOISE)

    def formula(prediction: Tensor, weight: Tensor | None) -> Tensor:
        return spec.denoise_distance(prediction, eps(shape).to(prediction.dtype), weight)

    prediction = randn(rng, *shape, dtype=dtype)
    distance = assert_within_budget(op, formula, [prediction, weight])
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    distance_too, gradient = denoise_distance_and_gradient(prediction, weight=weight, **NOISE)
    assert torch.equal(distance_too, distance) and gradient.dtype == dtype
    leaves = [prediction.requires_grad_(), prediction.detach().double().requires_grad_()]
    own, truth = (torch.autograd.grad(formula(leaf, weight).sum(), leaf)[0] for leaf in leaves)
    within_budget("gradient", gradient, own, truth)


@pytest.mark.parametrize("parameterization", ["x0", "v"])
def test_parameterizations_are_the_distance_in_eps(parameterization: str, rng: torch.Generator) -> None:
    """With the conversion outside, as `Scorer.predict_eps` does it, and a network between x_t and the prediction."""
    alpha, sigma = angles(rng, dtype=torch.float64)
    x = randn(rng, *ODD, dtype=torch.float64).requires_grad_()
    weight = torch.rand(3, generator=rng).to(DEVICE, torch.float64)
    x_t = noise_forward(x, alpha, sigma, **NOISE)
    prediction = torch.sin(2 * x_t)
    fused = denoise_distance(
        prediction, weight=weight, parameterization=parameterization, x=x, alpha=alpha, sigma=sigma, **NOISE
    )
    converted = (x_t - per_image(alpha) * prediction) / per_image(sigma)
    if parameterization == "v":
        converted = per_image(alpha) * prediction + per_image(sigma) * x_t
    expected = denoise_distance(converted, weight=weight, **NOISE)
    assert torch.allclose(fused, expected, rtol=1e-11, atol=0)
    upstream = randn(rng, 3, dtype=torch.float64)
    gradients = [torch.autograd.grad(value, x, upstream, retain_graph=True)[0] for value in (fused, expected)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-12)


def test_the_exact_prediction_has_no_distance() -> None:
    alpha, sigma = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    noise = noise_forward(torch.zeros(3, 1, 4, 4, device=DEVICE), alpha, sigma, seed=SEED, stream=STREAM)
    assert denoise_distance(noise, seed=SEED, stream=STREAM).tolist() == [0, 0, 0]
    assert (denoise_distance(noise, seed=SEED + 1, stream=STREAM) > 0.5).all()
    assert (denoise_distance(noise, seed=SEED, stream=STREAM, purpose=1) > 0.5).all()


def test_empty_batch() -> None:
    x, none = torch.zeros(0, 1, 4, 4, device=DEVICE).requires_grad_(), torch.zeros(0, device=DEVICE)
    stream = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    y = noise_forward(x, none, none, seed=0, stream=stream)
    distance = denoise_distance(x, seed=0, stream=stream)
    assert distance.shape == (0,)
    for value in (y, distance):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient.shape == x.shape
    distance, gradient = denoise_distance_and_gradient(x, seed=0, stream=stream)
    assert distance.shape == (0,) and gradient.shape == x.shape


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
    levels = dict(alpha=torch.ones(3), sigma=torch.ones(3))
    arguments = dict(x=torch.zeros(3, 1, 4, 4), **levels, stream=torch.tensor([1, 2, 3])) | change
    with pytest.raises(ValueError, match=message):
        noise_forward(**arguments, seed=0)
    if "x" not in change:
        with pytest.raises(ValueError, match=message):
            denoise_distance(arguments["x"], parameterization="v", **arguments, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(parameterization="score"), "parameterization is 'score', expected eps, x0 or v"),
        (dict(x=None), "x, alpha or sigma is None, expected all three for parameterization 'x0'"),
        (dict(x=torch.zeros(3, 1, 4, 5)), r"x is torch.float32 \(3, 1, 4, 5\)"),
        (dict(weight=torch.ones(2)), "weight is torch.float32"),
    ],
    ids=["name", "no x", "x", "weight"],
)
def test_errors_of_parameterizations(change: dict[str, Any], message: str) -> None:
    arguments = dict(parameterization="x0", x=torch.zeros(3, 1, 4, 4), alpha=torch.ones(3), sigma=torch.ones(3))
    for op in (denoise_distance, denoise_distance_and_gradient):
        with pytest.raises(ValueError, match=message):
            op(torch.zeros(3, 1, 4, 4), seed=0, stream=torch.tensor([1, 2, 3]), **(arguments | change))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [ODD, TAILS], ids=str)
def test_every_element_is_written(shape: tuple[int, ...], layout: str, rng: torch.Generator) -> None:
    x = LAYOUTS.get(layout, torch.clone)(randn(rng, *shape)).requires_grad_()
    y, distance = noise_forward(x, *angles(rng), **NOISE), denoise_distance(x, **NOISE)
    gradients = torch.autograd.grad(y.sum() + distance.sum(), x)
    for value in (y, distance, *gradients, *denoise_distance_and_gradient(x, **NOISE)):
        assert value.isfinite().all()


def test_score_loss_has_the_statistics_of_torch_randn() -> None:
    """Mean and variance of L_score over images and their noise, for a scorer in closed form."""
    count, shape = 64, (1, 4, 8)
    generator = torch.Generator(DEVICE).manual_seed(7)
    means = torch.rand(2, *shape, generator=generator) - 0.5
    schedule = schedule_from_config({}, "test")
    scorer = GaussianMixtureScorer(schedule, means, torch.tensor([0.2, 0.4])).to(DEVICE)
    images, t = torch.randn(count, *shape, generator=generator).to(DEVICE), torch.full((count,), 300, device=DEVICE)
    stream = torch.arange(count, device=DEVICE) * 2**20
    ours = score_loss(scorer, images, None, t, seed=SEED, stream=stream, purpose=PURPOSE).double()
    noise = torch.randn(200 * count, *shape, generator=generator).to(DEVICE)
    images, t = images.repeat(200, 1, 1, 1), t.repeat(200)
    x_t = images * scorer.alpha(t)[:, None, None, None] + noise * scorer.sigma(t)[:, None, None, None]
    torchs = (scorer.predict_eps(x_t, t) - noise).double().square().mean(dim=[1, 2, 3])
    deviations = (torchs - torchs.mean()).square()
    assert abs(ours.mean() - torchs.mean()) < 4 * (torchs.var() / count) ** 0.5
    assert abs(ours.var() - torchs.var()) < 4 * (deviations.var() / count) ** 0.5
