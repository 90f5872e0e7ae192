"""The analytic scorer against the gradient of its log density, and the three parameterizations against one another."""

import pytest
import torch
from torch import distributions

from smartfast.scorers import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_config

T = torch.tensor([0, 7, 30, 400, 999])


def mixture(parameterization="eps", dtype=torch.float64, classes=(0, 1, 1), schedule="linear"):
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(3, 2, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    return GaussianMixtureScorer(
        schedule_from_config({"beta_schedule": schedule}, "test"),
        means,
        torch.tensor([0.3, 0.05, 0.8], dtype=torch.float64),
        weights=torch.tensor([1.0, 2.0, 0.5]),
        classes=classes,
        parameterization=parameterization,
        dtype=dtype,
    )


def images(dtype=torch.float64):
    return torch.randn(len(T), 2, 3, 3, generator=torch.Generator().manual_seed(4), dtype=dtype)


def eps_from_log_density(scorer, x_t, t, components):
    """-sigma_t times the gradient of log p_t, by torch.distributions and autograd."""
    expected = []
    for x, alpha, sigma in zip(x_t, scorer.alpha(t).double(), scorer.sigma(t).double(), strict=True):
        x = x.clone().requires_grad_(True)
        scale = ((alpha * scorer.stds[components]) ** 2 + sigma**2).sqrt()
        loc = alpha * scorer.means[components].flatten(1)
        parts = distributions.Independent(distributions.Normal(loc, scale[:, None]), 1)
        shares = distributions.Categorical(logits=scorer.log_weights[components])
        log_density = distributions.MixtureSameFamily(shares, parts).log_prob(x.flatten())
        expected.append(-sigma * torch.autograd.grad(log_density, x)[0])
    return torch.stack(expected)


@pytest.mark.parametrize("classes", [None, (0, 1, 1)])
def test_eps_is_the_score(classes):
    scorer = mixture(classes=classes)
    x_t = images()
    labels = None if classes is None else torch.ones(len(T), dtype=torch.int64)
    components = [0, 1, 2] if classes is None else [1, 2]
    expected = eps_from_log_density(scorer, x_t, T, components)
    torch.testing.assert_close(scorer.predict_eps(x_t, T, labels), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("parameterization", ["x0", "v"])
def test_parameterizations_agree(parameterization, schedule):
    x_t, labels = images(), torch.tensor([0, 1, 1, 0, 1])
    expected = mixture(schedule=schedule).predict_eps(x_t, T, labels)
    scorer = mixture(parameterization, schedule=schedule)
    raw = scorer.network(x_t, T, labels)
    assert (raw - expected).abs().max() > 0.1
    # alpha and sigma are float32, so alpha^2 + sigma^2 = 1 holds to 1e-7, divided by sigma = 0.006 at t = 0.
    torch.testing.assert_close(scorer.predict_eps(x_t, T, labels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameterization", ["x0", "v"])
def test_half_precision_is_converted_in_float32(parameterization, half):
    scorer = mixture(parameterization, dtype=half)
    x_t, labels = images(torch.float32), torch.tensor([0, 1, 1, 0, 1])
    prediction = scorer.network(x_t, T, labels)
    assert prediction.dtype == half
    alpha, sigma = (level(T).double()[:, None, None, None] for level in (scorer.alpha, scorer.sigma))
    raw, noised = prediction.double(), x_t.double()
    expected = (noised - alpha * raw) / sigma if parameterization == "x0" else alpha * raw + sigma * noised
    found = scorer.predict_eps(x_t, T, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_frozen():
    scorer = mixture()
    parent = torch.nn.ModuleList([scorer]).train()
    assert parent.training and not scorer.training
    assert not any(p.requires_grad for p in scorer.parameters())


def test_the_null_class_is_the_whole_mixture():
    scorer, x_t = mixture(), images()
    assert (scorer.num_classes, scorer.null_class) == (2, 2)
    expected = mixture(classes=None).predict_eps(x_t, T)
    for labels in (None, torch.full((len(T),), 2)):
        assert torch.equal(scorer.predict_eps(x_t, T, labels), expected)
