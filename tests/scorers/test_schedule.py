"""alpha_t and sigma_t against closed forms in float64 and against the golden vectors."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import load_file

from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer
from smartfast.scorers.schedule import edm_schedule, parameterization_of, schedule_from_config

GOLDEN = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[2] / "../shared/golden"))
DIFFUSERS_NAME = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def linear_kept(steps):
    return np.cumprod(1 - np.linspace(1e-4, 0.02, steps))


def scaled_linear_kept(steps):
    return np.cumprod(1 - np.linspace(math.sqrt(1e-4), math.sqrt(0.02), steps) ** 2)


def cosine_kept(steps):
    """Nichol and Dhariwal, arXiv 2102.09672, eq. 17, with their cap of 0.999 on beta."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


@pytest.mark.parametrize("steps", [1000, 333])
@pytest.mark.parametrize(
    ("name", "closed_form"),
    [("linear", linear_kept), ("scaled_linear", scaled_linear_kept), ("squaredcos_cap_v2", cosine_kept)],
)
def test_closed_forms(name, closed_form, steps):
    schedule = schedule_from_config({"beta_schedule": name, "num_train_timesteps": steps}, "test")
    kept = closed_form(steps)
    # The cosine's last beta is 0.999, of which float32 keeps 1 - beta to 6e-5.
    np.testing.assert_allclose(schedule.alphas[:-1], np.sqrt(kept[:-1]), rtol=1e-5)
    np.testing.assert_allclose(schedule.alphas[-1], np.sqrt(kept[-1]), rtol=1e-4)
    np.testing.assert_allclose(schedule.sigmas, np.sqrt(1 - kept), rtol=2e-6)


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), DDIMScheduler(beta_schedule="squaredcos_cap_v2")])
def test_equals_diffusers(scheduler):
    schedule = schedule_from_config(dict(scheduler.config), "test")
    torch.testing.assert_close(schedule.alphas.square().float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)


def test_edm_table():
    schedule = edm_schedule()
    assert torch.equal(schedule.alphas, torch.ones(1000, dtype=torch.float64))
    # The published formula runs from the largest sigma down; SMaRt indexes it sorted.
    i = np.arange(1000)
    expected = np.sort((80 ** (1 / 7) + i / 999 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)
    np.testing.assert_allclose(schedule.sigmas, expected, rtol=1e-9)
    assert edm_schedule(18, sigma_min=0.1, sigma_max=2, rho=1).sigmas.tolist() == pytest.approx(np.linspace(0.1, 2, 18))


def test_trained_betas():
    betas = [0.1, 0.2, 0.5]
    schedule = schedule_from_config({"trained_betas": betas, "beta_schedule": "sigmoid"}, "test")
    assert schedule.name == "trained_betas"
    expected = torch.tensor([0.9, 0.72, 0.36], dtype=torch.float64)
    torch.testing.assert_close(schedule.alphas.square(), expected, rtol=1e-6, atol=0)


def test_scorer_holds_float32_and_indexes_by_timestep():
    schedule = schedule_from_config({}, "test")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(1, 1, 2, 2), torch.ones(1), dtype=torch.float64)
    t = torch.tensor([999, 0, 30])
    assert scorer.alphas.dtype == scorer.sigma(t).dtype == torch.float32
    kept = torch.from_numpy(linear_kept(1000))[t]
    torch.testing.assert_close(scorer.alpha(t).double(), kept.sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(scorer.sigma(t).double(), (1 - kept).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_golden_schedule(name):
    if not (GOLDEN / "manifest.json").exists():
        pytest.skip(f"no golden vectors in {GOLDEN}")
    cases = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
    found = [c for c in cases if c.get("kind") == "beta_schedule" and c["args"]["schedule"] == name]
    if not found:
        pytest.skip(f"no {name} beta schedule in {GOLDEN}")
    for case in found:
        config = {"beta_schedule": DIFFUSERS_NAME[name], "num_train_timesteps": case["args"]["steps"]}
        schedule = schedule_from_config(config, case["case"])
        kept = load_file(GOLDEN / case["file"])[case["outputs"]["alphas_cumprod_f64"]["key"]]
        torch.testing.assert_close(schedule.alphas.square(), kept, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(schedule.sigmas.square(), 1 - kept, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name is ScoreSdeVeScheduler, expected one of DDPMScheduler"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid', expected one of linear"),
        ({"trained_betas": [0.1, -0.2]}, "betas lie in -0.2..0.1, expected 0 < beta <= 1"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps is .many., expected int"),
    ],
)
def test_refused(config, message):
    with pytest.raises(UserError, match=message) as error:
        schedule_from_config(config, "here.json")
    assert str(error.value).startswith("here.json: ")
    assert "\n" not in str(error.value)


def test_parameterizations():
    assert [parameterization_of(c, "x") for c in ({}, {"prediction_type": "sample"})] == ["eps", "x0"]
    assert parameterization_of({"prediction_type": "v_prediction"}, "x") == "v"
    with pytest.raises(UserError, match="prediction_type is 'flow', expected one of epsilon, sample, v_prediction"):
        parameterization_of({"prediction_type": "flow"}, "x")
