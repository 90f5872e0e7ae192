"""The interval of timesteps in both of its forms."""

import pytest
import torch

from smartfast.config.schema import SmartConfig
from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer, timestep_range
from smartfast.scorers.schedule import schedule_from_config


@pytest.fixture
def scorer():
    return GaussianMixtureScorer(schedule_from_config({}, "test"), torch.zeros(1, 1, 2, 2), torch.ones(1))


def test_from_timesteps(scorer):
    found = timestep_range(scorer, SmartConfig(timesteps=(25, 35)))
    assert (found.first, found.last) == (25, 35)
    # The figures of SMaRt's interval under the linear schedule.
    assert found.noise_to_signal_low == pytest.approx(0.10, abs=0.005)
    assert found.noise_to_signal_high == pytest.approx(0.13, abs=0.005)
    assert str(found) == "t = 25..35 of 1000 (linear), sigma/alpha = 0.0955..0.128"


def test_both_forms_are_the_same_interval(scorer):
    by_timestep = timestep_range(scorer, SmartConfig(timesteps=(40, 60)))
    low, high = by_timestep.noise_to_signal_low, by_timestep.noise_to_signal_high
    assert timestep_range(scorer, SmartConfig(noise_to_signal=(low, high))) == by_timestep
    narrower = timestep_range(scorer, SmartConfig(noise_to_signal=(low * 1.001, high * 0.999)))
    assert (narrower.first, narrower.last) == (41, 59)


def test_timesteps_without_signal_are_refused():
    """alpha is 0 at the last of a schedule that ends in pure noise, and sigma / alpha no number."""
    schedule = schedule_from_config({"rescale_betas_zero_snr": True}, "test")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(1, 1, 2, 2), torch.ones(1), parameterization="v")
    assert timestep_range(scorer, SmartConfig(timesteps=(900, 998))).last == 998
    with pytest.raises(UserError, match="smart.timesteps: 900, 999, expected timesteps with some signal, t = 999 has"):
        timestep_range(scorer, SmartConfig(timesteps=(900, 999)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SmartConfig(), "smart.timesteps, smart.noise_to_signal: neither is set"),
        (SmartConfig(timesteps=(1, 2), noise_to_signal=(0.1, 0.2)), "both are set, expected exactly one"),
        (SmartConfig(timesteps=(35, 25)), "smart.timesteps: 35, 25, expected 0 <= first <= last <= 999"),
        (SmartConfig(timesteps=(25, 1000)), "smart.timesteps: 25, 1000"),
        (SmartConfig(timesteps=(-1, 5)), "smart.timesteps: -1, 5"),
        (SmartConfig(noise_to_signal=(0.2, 0.1)), "smart.noise_to_signal: 0.2, 0.1 holds no timestep"),
        (SmartConfig(noise_to_signal=(0.1, 0.1001)), "holds no timestep, expected 0 < low <= high within 0.01..157"),
        (SmartConfig(noise_to_signal=(500, 600)), "smart.noise_to_signal: 500, 600 holds no timestep"),
    ],
)
def test_refused(scorer, config, message):
    with pytest.raises(UserError, match=message) as error:
        timestep_range(scorer, config)
    assert "\n" not in str(error.value)
