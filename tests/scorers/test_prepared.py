"""Scorers of ADM's, EDM's and EDM2's networks."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from smartfast.errors import UserError
from smartfast.networks.unets import (
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    SongOptions,
    build_network,
)
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.edm import EDMScorer, log_uniform_schedule
from smartfast.scorers.schedule import edm_schedule
from smartfast.scorers.term import score_loss, score_loss_past_network

ADM8 = ADMOptions(
    8,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(4,),
    num_classes=4,
    num_head_channels=16,
)
SMALL: dict[str, Any] = dict(channel_mult=(1, 2), num_blocks=1)
OPTIONS = {
    "adm": ADM8,
    "cm": EDMOptions(replace(ADM8, out_channels=3, attention_dims=2), "cm"),
    "song": EDMOptions(SongOptions(8, label_dim=4, model_channels=32, attn_resolutions=(4,), **SMALL)),
    "iddpm": EDMOptions(DhariwalOptions(8, label_dim=4, model_channels=32, attn_resolutions=(4,), **SMALL), "iddpm"),
    "edm2": EDM2Options(8, label_dim=4, model_channels=32, attn_resolutions=(4,), channels_per_head=16, **SMALL),
}
LINEAR = adm_schedule("linear")


def network(kind: str, **changes: Any) -> torch.nn.Module:
    """With random weights, none of which is zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        built = build_network(replace(OPTIONS[kind], **changes))
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter += 0.3 if parameter.ndim == 0 else 0.2 * torch.randn_like(parameter)
    return built


def scorer_of(kind: str, **options: Any) -> ADMScorer | EDMScorer:
    if kind == "adm":
        return ADMScorer(network(kind), LINEAR, **options)
    return EDMScorer(network(kind), **options)


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_a_scorer_says_of_itself(kind) -> None:
    scorer = scorer_of(kind, where="my model")
    assert (scorer.image_shape, scorer.num_classes, scorer.null_class) == ((3, 8, 8), 4, None)
    assert scorer.parameterization == ("eps" if kind == "adm" else "x0") and scorer.num_timesteps == 1000
    assert scorer.attention.startswith("sdpa (")
    assert not any(parameter.requires_grad for parameter in scorer.parameters()) and not scorer.train().training


@pytest.mark.parametrize("kind", OPTIONS)
def test_noise_is_what_the_network_leaves(kind) -> None:
    scorer = scorer_of(kind)
    x_t, t, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 100, 500]), torch.tensor([1, 0, 3])
    eps = scorer.predict_eps(x_t, t, labels)
    if kind == "adm":
        expected = network(kind)(x_t, t, labels)[:, :3]  # a learned variance is left out
    else:
        sigma = scorer.sigma(t)
        expected = (x_t - network(kind)(x_t, sigma, labels)) / sigma[:, None, None, None]
    torch.testing.assert_close(eps, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.sample(2)
@pytest.mark.parametrize("function", [score_loss, score_loss_past_network], ids=lambda function: function.__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", OPTIONS)
def test_gradient_of_the_term_in_half_precision(kind, dtype, function) -> None:
    """At the paper's timesteps; of EDM that is sigma = 0.0036 to 0.0077."""
    stream, t, labels = torch.arange(6), torch.tensor([25, 30, 35, 40, 50, 60]), torch.arange(6) % 4
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator("cpu").manual_seed(3), device="cpu").tanh().to(t.device)
    gradients = []
    for precision in (torch.float32, dtype):
        leaf = images.clone().requires_grad_()
        loss = function(scorer_of(kind, dtype=precision), leaf, labels, t, seed=0, stream=stream, purpose=8)
        gradients.append(torch.autograd.grad(loss.mean(), leaf)[0].flatten())
    assert torch.cosine_similarity(*gradients, dim=0) >= 0.999
    assert gradients[1].norm() / gradients[0].norm() == pytest.approx(1, abs=0.02)


def test_timesteps_of_iddpm_are_the_networks_own() -> None:
    """Timestep t is what the network is told at the noise level of t."""
    scorer: Any = scorer_of("iddpm")
    t = torch.arange(1000)
    assert torch.equal(scorer.unet.coefficients(scorer.sigma(t))[3], t.to(torch.float32))
    assert scorer.schedule == "iddpm"


@pytest.mark.parametrize(
    "schedule, name", [(None, "edm"), (edm_schedule(10), "edm"), (log_uniform_schedule(50), "log_uniform")]
)
def test_noise_levels_of_edm(schedule, name) -> None:
    scorer = scorer_of("song", schedule=schedule)
    sigma = scorer.sigma(torch.arange(scorer.num_timesteps))
    assert scorer.schedule == name and (sigma.diff() > 0).all()
    torch.testing.assert_close(sigma[[0, -1]], torch.tensor([0.002, 80.0]))
    if name == "log_uniform":
        steps = sigma.log().diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=1e-4)


def test_last_class_as_null_class() -> None:
    scorer = scorer_of("adm", null_class=3)
    assert (scorer.num_classes, scorer.null_class) == (3, 3)
    x_t, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 40])
    assert torch.equal(scorer.network(x_t, t, None), scorer.network(x_t, t, torch.tensor([3, 3])))
    with pytest.raises(ValueError, match="labels is None"):
        scorer_of("adm").network(x_t, t, None)


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind != "adm"])
def test_no_class_as_null_class(kind) -> None:
    scorer, denoiser = scorer_of(kind, null_class=4), network(kind)
    assert (scorer.num_classes, scorer.null_class) == (4, 4)
    x_t, t = torch.randn(2, 3, 8, 8), torch.tensor([300, 600])
    for labels, vectors in (
        (None, torch.zeros(2, 4)),
        (torch.tensor([4, 1]), torch.eye(5, 4)[[4, 1]]),
    ):
        expected = denoiser(x_t, scorer.sigma(t), vectors)
        torch.testing.assert_close(scorer.network(x_t, t, labels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: scorer_of("adm", null_class=2, where="my.pt"), "smart.null_class is 2, expected of my.pt 3, the last"),
        (
            lambda: scorer_of("edm2", null_class=5),
            "smart.null_class is 5, expected of scorer 3, the last of its classes, or 4, which is no class",
        ),
        (lambda: scorer_of("adm", null_class=4, where="my.pt"), "smart.null_class is 4, expected of my.pt 3, the last"),
        (
            lambda: ADMScorer(network("adm", num_classes=None), LINEAR, null_class=0),
            "smart.null_class is 0, expected of scorer null: it has no classes",
        ),
        (
            lambda: scorer_of("song", attention="xformers", where="my.pkl"),
            "perf.attention is xformers, expected auto or sdpa, the only one that my.pkl has",
        ),
        (
            lambda: ADMScorer(network("adm", out_channels=5), LINEAR, where="my.pt"),
            "my.pt: out_channels is 5, expected in_channels (3) or, with a learned variance, twice that",
        ),
        (lambda: scorer_of("song", schedule=LINEAR), "scorer: the schedule is linear, expected one of sigmas alone"),
    ],
)
def test_what_does_not_fit(make, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make()
