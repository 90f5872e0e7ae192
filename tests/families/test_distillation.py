"""A student of a scorer: what it is trained on against the formulas, and which teachers it cannot have."""

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smartfast.config.families import DenoiserGan, DenoiserLoss
from smartfast.config.schema import Config, DataConfig, RunConfig, SmartConfig
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.engine.schedules import DeviceScalars
from smartfast.errors import UserError
from smartfast.families.base import Parts
from smartfast.families.denoiser.distillation import check_distillation, check_teacher, perturbed
from smartfast.families.denoiser.family import DenoiserFamily
from smartfast.families.rounds import Round
from smartfast.families.score import ScoreRegularity
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.scorers import GaussianMixtureScorer, Scorer, timestep_range
from smartfast.scorers.schedule import edm_schedule, schedule_from_config

GAN = DenoiserGan(block_out_channels=(4, 8), layers_per_block=1, attention=(), attention_head_dim=4, norm_groups=2)
EDM = DenoiserGan(network="edm", block_out_channels=(4, 8), layers_per_block=1, attention=())
SMART = SmartConfig(scorer="teacher", frequency=1, noise_to_signal=(0.1, 0.5))
RGB = SimpleNamespace(resolution=8, channels=3, num_classes=0, class_names=None)


def teacher(kind: Any = "eps", **config: Any) -> GaussianMixtureScorer:
    schedule = edm_schedule() if kind == "x0" else schedule_from_config(config, "test")
    means = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return GaussianMixtureScorer(schedule, means, torch.full((4,), 0.3), parameterization=kind)


def family(scorer: Scorer, gan: DenoiserGan = GAN) -> DenoiserFamily:
    config = Config(run=RunConfig(seed=7), data=DataConfig(holdout=4), gan=gan, loss=DenoiserLoss(), smart=SMART)
    model = DenoiserFamily(config, RGB)
    score = ScoreRegularity(scorer, timestep_range(scorer, SMART), SMART, seed=7, weight=0.1)
    model.phases(Parts(None, DeviceScalars(torch.device("cpu")), score, 1))
    return model


def images(count: int = 40) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_perturbed_images_against_the_formula() -> None:
    stream = torch.arange(40) + 2**33
    lots = philox_uniform(7, stream, 2, Purpose.PERTURBATION + Purpose.CHOICES)
    noise = philox_normal(7, stream, 192, Purpose.PERTURBATION).view(40, 3, 8, 8)
    seen = set()
    for x, y, (lot, share), eps in zip(
        images(), perturbed(images(), stream, seed=7), lots.tolist(), noise, strict=True
    ):
        padded = F.pad(x.double()[None], (1, 1, 1, 1), mode="replicate")[0]
        blurred = sum(padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)) / 9
        ways = [x, blurred, (x + x.roll((2, 2), (1, 2))) / 2, x + 0.3 * eps]
        way = int(lot * 4)
        torch.testing.assert_close(y.double(), torch.lerp(x.double(), ways[way].double(), share), rtol=0, atol=1e-6)
        seen.add(way)
    assert seen == {0, 1, 2, 3}
    assert torch.equal(perturbed(images()[5:9], stream[5:9], seed=7), perturbed(images(), stream, seed=7)[5:9])
    moved = perturbed(images(), stream, seed=7, kept_share=0.0) != images()
    assert moved.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("kind", "gan"), [("eps", GAN), ("x0", EDM)], ids=["eps", "x0"])
def test_loss_against_its_formula(kind: str, gan: DenoiserGan) -> None:
    scorer = teacher(kind)
    model, x, stream = family(scorer, gan), images(3), torch.tensor([3, 900, 2**33])
    found, statistics = model.denoise(Round(stream, x.clone().requires_grad_(), None))
    ends = timestep_range(scorer, SMART)
    t = draw_timesteps(7, stream, ends.first, ends.last)
    alpha, sigma = scorer.alphas[t][:, None, None, None], scorer.sigmas[t][:, None, None, None]
    eps = philox_normal(7, stream, 192, Purpose.SCORE_NOISE).view(x.shape)
    x_t = alpha * perturbed(x, stream, seed=7) + sigma * eps
    level = t if kind == "eps" else scorer.sigmas[t]
    error = model.denoiser(x_t, level, None) - scorer.network(x_t, t, None)
    weight = 1 if kind == "eps" else sigma.double() ** -2
    torch.testing.assert_close(found.double(), (weight * error.double().square()).mean(), rtol=1e-4, atol=0)
    assert statistics == {"loss/denoise": found.detach()}


def test_a_student_that_is_its_teacher() -> None:
    """Every cosine is 1 and no output differs, on data and on perturbed images."""
    model = family(teacher())
    twin = family(model.denoiser.eval().scorer(torch.device("cpu")))
    twin.denoiser.load_state_dict(model.denoiser.state_dict())
    held_out = SimpleNamespace(all_images=lambda: ((images(6) + 1) * 127.5).byte(), labels=None)
    twin.held_out = held_out  # type: ignore[assignment]
    found = twin.measure(twin.denoiser.eval(), torch.device("cpu"))
    ones = {f"teacher/{which}{name}" for which in ("", "perturbed_") for name in ("cosine", "mean_cosine", "norm")}
    errors = {"teacher/error", "teacher/perturbed_error"}
    assert found.keys() == ones | errors
    assert {name: value for name, value in found.items() if name in ones} == pytest.approx(dict.fromkeys(ones, 1.0))
    assert all(found[name] < 1e-6 for name in errors)
    assert next(twin.denoiser.parameters()).requires_grad


@pytest.mark.parametrize(
    ("gan", "loss", "scorer", "message"),
    [
        (EDM, {}, teacher(), "gan.network is edm, expected unet2d or adm: smart.scorer counts timesteps"),
        (GAN, {}, teacher("x0"), "gan.network is unet2d, expected edm or edm_dhariwal: smart.scorer is told sigma"),
        (EDM, {"label_dropout": 0.1}, teacher("x0"), "loss.label_dropout is 0.1, expected 0 with a teacher"),
        (GAN, {}, teacher("v"), "loss.prediction_type is epsilon, expected v_prediction, as smart.scorer has it"),
        (GAN, {"num_timesteps": 500}, teacher(), "loss.num_timesteps is 500, expected 1000, as smart.scorer has it"),
        (
            GAN,
            {},
            teacher(beta_schedule="squaredcos_cap_v2"),
            "loss.beta_schedule is linear, expected that of smart.scorer, which is squaredcos_cap_v2",
        ),
    ],
)
def test_teachers_of_another_kind(gan: DenoiserGan, loss: dict, scorer: Scorer, message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message)):
        check_teacher(gan, DenoiserLoss(**loss), scorer)


@pytest.mark.parametrize(
    ("smart", "holdout", "message"),
    [
        ({"frequency": 8}, 4, "smart.frequency is 8, expected 0, or 1 to learn from smart.scorer"),
        ({"crop": 4}, 4, "smart.crop is 4, expected None: a diffusion model has no fakes"),
        ({"weight": 1.0}, 4, "smart.weight is 1.0, expected 0.1: a diffusion model has no fakes"),
        ({}, 0, "data.holdout is 0, expected images to hold gradients against the teacher's on, such as 200"),
    ],
)
def test_settings_without_a_use(smart: dict, holdout: int, message: str) -> None:
    config = Config(gan=GAN, loss=DenoiserLoss(), data=DataConfig(holdout=holdout))
    with pytest.raises(UserError, match="^" + re.escape(message)):
        check_distillation(dataclasses.replace(config, smart=dataclasses.replace(SMART, **smart)))
