"""The diffusion model: its loss, learning rate and average, and samples that depend on nothing but their number."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from smartfast.config.families import DenoiserGan, DenoiserLoss
from smartfast.config.schema import Config, DataConfig, OptimConfig, PerfConfig, RunConfig
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.families.rounds import Round
from smartfast.families.sampling import Look
from smartfast.kernels import philox_normal
from smartfast.run.training import Training

GAN = DenoiserGan(
    block_out_channels=(4, 8), layers_per_block=1, attention=(4,), attention_head_dim=4, norm_groups=2, dropout=0.0
)
RGB = SimpleNamespace(resolution=8, channels=3, num_classes=5, class_names=None)


def family(loss: DenoiserLoss | None = None, optim: OptimConfig | None = None, **run: float) -> DenoiserFamily:
    config = Config(
        run=RunConfig(seed=7, **run), gan=GAN, loss=loss or DenoiserLoss(sample_steps=3), optim=optim or OptimConfig()
    )
    return DenoiserFamily(config, RGB)


def batch() -> Round:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Round(torch.tensor([3, 900, 2**33]), images.requires_grad_(), torch.tensor([4, 0, 1]))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_loss_against_its_formula_in_float64(prediction_type: str) -> None:
    model, part = family(DenoiserLoss(prediction_type=prediction_type)), batch()
    found, statistics = model.denoise(part)
    t = draw_timesteps(7, part.stream, 0, 999)
    eps = philox_normal(7, part.stream, 192, Purpose.SCORE_NOISE).reshape(part.images.shape).double()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)[t][:, None, None, None]
    alpha, sigma, x0 = kept.sqrt(), (1 - kept).sqrt(), part.images.detach().double()
    target = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[prediction_type]
    prediction = model.denoiser.unet((alpha * x0 + sigma * eps).float(), t, class_labels=part.labels).sample.double()
    torch.testing.assert_close(found.double(), (prediction - target).square().mean(), rtol=1e-4, atol=0)
    assert statistics == {"loss/denoise": found.detach()}


def test_the_exported_scorer_is_for_whom_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        model = family()
        model.export(tmp_path, model.denoiser.state_dict())
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "scorer").iterdir()}
    assert len(modes) == 3 and set(modes.values()) == {0o640}


def test_half_precision_is_autocast_around_the_network_only() -> None:
    full = family()
    half = DenoiserFamily(dataclasses.replace(full.config, perf=PerfConfig(precision="bf16")), RGB)
    losses = [model.denoise(batch())[0] for model in (full, half)]
    assert losses[1].dtype == torch.float32 and losses[0] != losses[1]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=2e-2)


def test_learning_rate_rises_and_falls() -> None:
    warm = DenoiserLoss(lr_warmup_kimg=1.0, lr_decay="cosine")
    model = family(warm, OptimConfig(batch=10, lr_g=1.0), kimg=3.0)
    assert model.learning_rate(0) == pytest.approx(10 / 1010)
    assert model.learning_rate(500) == pytest.approx(510 / 1010)
    assert model.learning_rate(2000) == pytest.approx(0.5)
    assert model.learning_rate(3000) == pytest.approx(0.0)
    constant = dataclasses.replace(warm, lr_decay="constant")
    assert family(constant, OptimConfig(batch=10, lr_g=1.0), kimg=3.0).learning_rate(2900) == 1.0


def test_average_is_that_of_diffusers() -> None:
    """EMAModel of diffusers.training_utils, over the same steps of one weight."""
    from diffusers.training_utils import EMAModel

    weight = torch.nn.Parameter(torch.zeros(1))
    theirs, ours = EMAModel([weight], decay=0.5), torch.zeros(1)
    model = family(DenoiserLoss(ema_decay=0.5))
    for step in range(8):
        weight.data.fill_(float(step**2))
        theirs.step([weight])
        ours.lerp_(weight.data, model.average_step(step * 32, 32))
        assert torch.allclose(ours, theirs.shadow_params[0], atol=1e-6)


def test_samples_do_not_depend_on_the_batch_and_follow_their_class() -> None:
    model = family()
    draw = DenoiserFamily.sampler(model.denoiser.eval(), data_labels=torch.arange(5), seed=3)
    images, labels = draw(torch.arange(4))
    one, label = draw(torch.tensor([2]))
    assert images.shape == (4, 3, 8, 8) and label == labels[2]
    assert (one[0].int() - images[2].int()).abs().max() <= 1
    z, vectors = torch.randn(1, 3, 8, 8), torch.eye(5)
    pair = [draw.images(z, vectors[label : label + 1], torch.tensor([0]), Look()) for label in (0, 1)]
    assert not torch.equal(*pair)
    with pytest.raises(UserError, match="a diffusion model has none of them"):
        draw.images(z, vectors[:1], torch.tensor([0]), Look(psi=0.7))


@pytest.mark.slow
def test_compiled_it_is_one_graph_with_the_eager_gradient() -> None:
    dataset = open_dataset(DataConfig(resolution=8, labels=True))
    runs = []
    for compile in (False, True):
        perf = PerfConfig(compile=compile, channels_last=True)
        config = Config(run=RunConfig(seed=7), gan=GAN, loss=DenoiserLoss(), optim=OptimConfig(batch=4), perf=perf)
        training = Training(config, dataset, device=torch.device("cpu"))
        training.load(RealBatch(batch().images.detach()[:1, :1].expand(4, 1, 8, 8), torch.arange(4)))
        counters.clear()
        loss, _, gradients = training.phases["denoise"].compute(training.rounds[0])
        runs.append((loss, torch.cat([gradient.flatten() for gradient in gradients])))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    (eager, eager_gradient), (compiled, compiled_gradient) = runs
    assert torch.allclose(compiled, eager, rtol=1e-5)
    assert (compiled_gradient - eager_gradient).norm() < 1e-5 * eager_gradient.norm()
