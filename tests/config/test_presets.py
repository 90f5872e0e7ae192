"""What the presets say: intervals of noise that mean the same under every schedule."""

import pytest
import torch

from smartfast.config.parse import CONFIGS, parse_config
from smartfast.scorers import GaussianMixtureScorer, load_scorer, timestep_range
from smartfast.scorers.schedule import edm_schedule, schedule_from_config

PRESETS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_interval_is_given_as_noise_to_signal(preset: str) -> None:
    smart = parse_config(["--config", preset]).smart
    assert smart.timesteps is None and smart.noise_to_signal is not None


@pytest.mark.parametrize(
    ("preset", "schedule", "timesteps"),
    [
        ("cifar10", edm_schedule(), (40, 60)),
        ("biggan_cifar10", edm_schedule(), (40, 60)),
        ("biggan_imagenet128", schedule_from_config({"beta_schedule": "linear"}, "ADM 128"), (25, 35)),
        ("imagenet64", schedule_from_config({"beta_schedule": "squaredcos_cap_v2"}, "ADM 64"), (25, 35)),
        *(
            (preset, schedule_from_config({"beta_schedule": "squaredcos_cap_v2"}, "ADM 64"), (25, 35))
            for preset in ("aurora_imagenet64", "aurora_imagenet64_small")
        ),
        ("lsun_bedroom256", schedule_from_config({"beta_schedule": "linear"}, "ADM 256"), (25, 35)),
    ],
)
def test_the_interval_is_that_of_smart_under_the_schedule_of_its_scorer(preset, schedule, timesteps) -> None:
    """SMaRt's table of hyper-parameters; EDM's index counts sigmas in ascending order."""
    scorer = GaussianMixtureScorer(schedule, torch.zeros(1, 1, 2, 2), torch.ones(1))
    config = parse_config(["--config", preset])
    found = timestep_range(scorer, config.smart)
    assert (found.first, found.last) == timesteps
    low, high = config.smart.noise_to_signal
    line = f"{found} (SMaRt's at {config.data.resolution} pixels: {low:g}..{high:g})"
    assert found.beside_the_papers(config.data.resolution) == line
    assert found.beside_the_papers(16) == str(found)


def test_the_digits_keep_the_interval_that_they_were_tuned_with() -> None:
    found = timestep_range(load_scorer("digits"), parse_config([]).smart)
    assert (found.first, found.last) == (25, 250)
