"""The phases: the score term joins the generator's loss, and its gradient is the sum; frozen layers stay."""

import os
from collections.abc import Callable

import pytest
import torch

from smartfast.config.families import StyleGan2Gan
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.data import RealBatch
from smartfast.families.stylegan2.latents import LatentSampler
from smartfast.families.stylegan2.networks import build_networks
from smartfast.families.stylegan2.phases import path_length_penalty, style_latents
from smartfast.networks.stylegan2 import Generator
from smartfast.run.training import Training
from smartfast.scorers.term import score_loss


@pytest.fixture
def parts() -> tuple[Generator, LatentSampler]:
    torch.manual_seed(0)
    shape = dict(resolution=16, channels=1, c_dim=10, channel_base=64, channel_max=8, mapping_layers=1)
    g = Generator(z_dim=6, w_dim=6, **shape)
    sampler = LatentSampler(
        seed=5,
        z_dim=6,
        num_ws=g.num_ws,
        noise_shapes=g.synthesis.noise_shapes,
        data_labels=torch.arange(10),
        num_classes=10,
        style_mixing_prob=0.5,
    )
    return g, sampler


def gradient(loss: torch.Tensor, g: Generator) -> torch.Tensor:
    grads = torch.autograd.grad(loss, list(g.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([x.flatten() for x in grads])


@pytest.mark.parametrize("own_pass", ["false", "true"])
@pytest.mark.parametrize("fraction", [1.0, 0.6])
def test_score_term_adds_to_the_generator_loss(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch], own_pass: str, fraction: float
) -> None:
    weight = 0.3
    training = tiny_training(smart__separate_pass=own_pass, smart__batch_fraction=fraction, smart__weight=weight)
    training.load(tiny_reals())
    (batch,), losses = training.rounds, {spec.name: spec.loss for spec in training.specs}
    g, phases = training.family.g, losses["g_main"].__self__
    total, statistics = losses["g_score"](batch)
    adversarial, _ = losses["g_main"](batch)

    chosen, places = phases.score.choose(batch)
    assert len(chosen.stream) == (8 if fraction == 1 else 5)
    latents = phases.latents(Purpose.G_SCORE if own_pass == "true" else Purpose.G_MAIN, batch.stream)
    if own_pass == "true":
        latents = phases.latents(Purpose.G_SCORE, chosen.stream)
    images, labels = g.synthesis(style_latents(g, latents)[0], latents.noise), latents.labels
    if places is not None and own_pass == "false":
        images, labels = images[places], labels[places]
    t = draw_timesteps(0, chosen.stream, phases.score.timesteps.first, phases.score.timesteps.last)
    noise = dict(seed=0, stream=chosen.stream, purpose=Purpose.SCORE_NOISE)
    score = score_loss(phases.score.term.scorer, images, labels, t, **noise).mean()
    assert statistics["loss/score"] == pytest.approx(score.item(), rel=1e-5)
    assert total.item() == pytest.approx(adversarial.item() + weight * score.item(), rel=1e-5)
    score_gradient = gradient(score, g)
    expected = gradient(adversarial, g) + weight * score_gradient
    assert (gradient(total, g) - expected).norm() / expected.norm() < 1e-5
    assert score_gradient.norm() > 0


def test_style_mixing_switches_at_the_cutoff(parts) -> None:
    g, sampler = parts
    latents = sampler(Purpose.G_MAIN, torch.arange(16))
    ws, w_mean = style_latents(g, latents)
    first, second = g.mapping.map(latents.z, latents.c), g.mapping.map(latents.z_mix, latents.c)
    for n in range(16):
        for layer in range(g.num_ws):
            expected = first[n] if layer < latents.cutoff[n] else second[n]
            assert torch.allclose(ws[n, layer], expected, atol=1e-6)
    assert torch.allclose(w_mean, first.mean(dim=0), atol=1e-6) and not w_mean.requires_grad


def test_path_length_against_the_jacobian(parts) -> None:
    g, sampler = parts
    latents = sampler(Purpose.G_PATH, torch.arange(2))
    pixels = torch.randn(2, 1, 16, 16)
    options = dict(decay=0.01, mean_over_processes=lambda x: x)
    ws = style_latents(g, latents)[0]
    penalty, new_mean = path_length_penalty(g, ws, latents.noise, pixels, torch.tensor(0.2), **options)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: (g.synthesis(w, latents.noise) * pixels).sum(dim=[1, 2, 3]) / 16, ws.detach()
    )
    lengths = torch.stack([jacobian[n, n].square().sum(dim=1).mean().sqrt() for n in range(2)])
    mean = 0.2 + 0.01 * (lengths.mean() - 0.2)
    assert new_mean.item() == pytest.approx(mean.item(), rel=1e-4)
    assert penalty.tolist() == pytest.approx((lengths - mean).square().tolist(), rel=1e-3)


FREEZABLE = {
    "resnet": "b16.fromrgb b16.conv0 b16.conv1 b16.skip b8.conv0 b8.conv1 b8.skip",
    "orig": "b16.fromrgb b16.conv0 b16.conv1 b8.conv0 b8.conv1",
    "skip": "b16.fromrgb b16.conv0 b16.conv1 b8.fromrgb b8.conv0 b8.conv1",
}
"""By gan.architecture_d, in the order in which stylegan2-ada-pytorch counts layers, which leaves out 4x4."""


@pytest.mark.parametrize("architecture", FREEZABLE)
def test_layers_are_frozen_from_the_image_down(architecture: str) -> None:
    layers = FREEZABLE[architecture].split()
    for count in (0, 1, 4, len(layers)):
        gan = StyleGan2Gan(architecture_d=architecture, freeze_d=count, channel_base=64, channel_max=8)
        _, d = build_networks(gan, resolution=16, channels=1, num_classes=3, precision="fp32", seed=0)
        frozen = [name.rpartition(".")[0] for name, p in d.named_parameters() if not p.requires_grad]
        assert list(dict.fromkeys(frozen)) == layers[:count]


@pytest.mark.parametrize("compiled", ["false", *(["true"] if "SMARTFAST_TEST_SLOW" in os.environ else [])])
def test_frozen_layers_stay_bit_equal_and_are_not_optimized(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch], compiled: str
) -> None:
    training = tiny_training(gan__freeze_d=3, loss__r1_interval=2, perf__channels_last="true", perf__compile=compiled)
    before = {name: value.clone() for name, value in training.state().items()}
    for _ in range(3):
        training.run_iteration(tiny_reals())
    after = training.state()
    frozen = {f"d/module/b8.{name}" for name in ("fromrgb.weight", "fromrgb.bias", "conv0.weight", "conv0.bias")}
    frozen |= {"d/module/b8.conv1.weight", "d/module/b8.conv1.bias"}
    trained = {f"d/module/{name}" for name in training.networks["d"].parameters.names}
    assert trained | frozen == {f"d/module/{name}" for name, _ in training.family.d.named_parameters()}
    assert {name for name in trained | frozen if torch.equal(before[name], after[name])} == frozen
    assert training.family.d.b8.conv0.weight.is_contiguous(memory_format=torch.channels_last)
