"""The phases: the score term joins the generator's loss, and its gradient is the sum."""

import pytest
import torch

from smartfast.core.draws import LatentSampler, Purpose
from smartfast.families.stylegan2_phases import ScoreBatch, g_main, g_path, style_latents
from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.scorers import load_scorer
from smartfast.scorers.term import ScoreTerm, score_loss

SEED, WEIGHT = 5, 0.3


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    shape = dict(resolution=16, channels=1, c_dim=10, channel_base=64, channel_max=8, mapping_layers=1)
    g, d = Generator(z_dim=6, w_dim=6, **shape), Discriminator(**shape)
    sampler = LatentSampler(
        seed=SEED,
        z_dim=6,
        num_ws=g.num_ws,
        noise_shapes=g.synthesis.noise_shapes,
        data_labels=torch.arange(10),
        num_classes=10,
        style_mixing_prob=0.5,
    )
    return g, d, sampler, load_scorer("digits")


def gradient(loss: torch.Tensor, g: Generator) -> torch.Tensor:
    grads = torch.autograd.grad(loss, list(g.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([x.flatten() for x in grads])


@pytest.mark.parametrize("own_pass", [False, True])
@pytest.mark.parametrize("places", [None, [6, 1, 3, 4, 7]])
def test_score_term_adds_to_the_generator_loss(parts, own_pass: bool, places: list[int] | None) -> None:
    g, d, sampler, scorer = parts
    stream = torch.arange(8)
    latents = sampler(Purpose.G_MAIN, stream)
    chosen = None if places is None else torch.tensor(places)
    stream = stream if places is None else stream[chosen]
    t = torch.full(stream.shape, 30)
    scored = sampler(Purpose.G_SCORE, stream) if own_pass else latents
    term = ScoreTerm(scorer, weight=WEIGHT, seed=SEED, purpose=Purpose.SCORE_NOISE)
    batch = ScoreBatch(t, stream, scored if own_pass else None, chosen)
    total, statistics = g_main(g, d, latents, batch, score_term=term)

    adversarial, _ = g_main(g, d, latents)
    images, labels = g.synthesis(style_latents(g, scored)[0], scored.noise), scored.labels
    if chosen is not None and not own_pass:
        images, labels = images[chosen], labels[chosen]
    score = score_loss(scorer, images, labels, t, seed=SEED, stream=stream, purpose=Purpose.SCORE_NOISE).mean()
    assert statistics["loss/score"] == pytest.approx(score.item(), rel=1e-5)
    assert total.item() == pytest.approx(adversarial.item() + WEIGHT * score.item(), rel=1e-5)
    score_gradient = gradient(score, g)
    expected = gradient(adversarial, g) + WEIGHT * score_gradient
    assert (gradient(total, g) - expected).norm() / expected.norm() < 1e-5
    assert score_gradient.norm() > 0


def test_style_mixing_switches_at_the_cutoff(parts) -> None:
    g, _, sampler, _ = parts
    latents = sampler(Purpose.G_MAIN, torch.arange(16))
    ws, w_mean = style_latents(g, latents)
    first, second = g.mapping.map(latents.z, latents.c), g.mapping.map(latents.z_mix, latents.c)
    for n in range(16):
        for layer in range(g.num_ws):
            expected = first[n] if layer < latents.cutoff[n] else second[n]
            assert torch.allclose(ws[n, layer], expected, atol=1e-6)
    assert torch.allclose(w_mean, first.mean(dim=0), atol=1e-6) and not w_mean.requires_grad


def test_path_length_against_the_jacobian(parts) -> None:
    g, _, sampler, _ = parts
    latents = sampler(Purpose.G_PATH, torch.arange(2))
    pixels = torch.randn(2, 1, 16, 16)
    loss, statistics = g_path(
        g, latents, pixels, torch.tensor(0.2), weight=2.0, decay=0.01, mean_over_processes=lambda x: x
    )
    ws = style_latents(g, latents)[0].detach()
    jacobian = torch.autograd.functional.jacobian(
        lambda w: (g.synthesis(w, latents.noise) * pixels).sum(dim=[1, 2, 3]) / 16, ws
    )
    lengths = torch.stack([jacobian[n, n].square().sum(dim=1).mean().sqrt() for n in range(2)])
    mean = 0.2 + 0.01 * (lengths.mean() - 0.2)
    assert statistics["path_mean"] == pytest.approx(mean.item(), rel=1e-4)
    assert loss.item() == pytest.approx(2 * (lengths - mean).square().mean().item(), rel=1e-3)
