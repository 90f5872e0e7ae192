"""Every scheduler that diffusers has: read as its own add_noise noises, or refused with one line."""

import copy
import inspect

import diffusers
import pytest
import torch

from smartfast.errors import UserError
from smartfast.scorers.schedule import schedule_from_config

STEPS = 50
NAMES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
NOISINGS = [
    {},
    {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.3},
    {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.3},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": torch.linspace(0.01, 0.5, STEPS).tolist()},
    {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.3, "rescale_betas_zero_snr": True},
]
# What public models come with: trained with the noise of DDPM, whatever samples them.
ACCEPTED = {
    "DDPMScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
}


def schedule_or_error(config):
    try:
        return schedule_from_config(config, "scheduler_config.json")
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("scheduler_config.json: ")
        return None


def scheduler_of(name, noising):
    """diffusers' own, which noises as it is set to sample, at every timestep where it can."""
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    spacing = {"timestep_spacing": "trailing"} if "timestep_spacing" in parameters else {}
    scheduler = getattr(diffusers, name)(num_train_timesteps=STEPS, **noising, **spacing)
    # Without a spacing to choose, it takes the steps after the first.
    scheduler.set_timesteps(STEPS if spacing else STEPS - 1)
    return scheduler


def factors(scheduler, t):
    """Of image and noise in what the network sees, which of a scheduler in terms of sigma is scaled."""
    ones, zeros = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    noised = [scheduler.add_noise(x, noise, t[None]) for x, noise in ((ones, zeros), (zeros, ones))]
    return [float(copy.deepcopy(scheduler).scale_model_input(x_t, t)) for x_t in noised]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noising", NOISINGS, ids=lambda noising: "-".join(noising) or "defaults")
@pytest.mark.parametrize("name", NAMES)
def test_accepted_as_it_noises_or_refused(name, noising):
    schedule = schedule_or_error({"_class_name": name, "num_train_timesteps": STEPS, **noising})
    if schedule is None:
        is_rescaled = noising.get("rescale_betas_zero_snr", False)
        assert name not in ACCEPTED or is_rescaled
        return
    scheduler = scheduler_of(name, noising)
    timesteps = [t for t in scheduler.timesteps.unique() if t == t.round()]
    assert len(timesteps) >= STEPS - 1
    found = torch.tensor([factors(scheduler, t) for t in timesteps], dtype=torch.float64)
    where = torch.stack(timesteps).long()
    # Schedulers in terms of sigma replace alpha = 0 by 2^-12.
    tolerance = 2.5e-4 if noising.get("rescale_betas_zero_snr") else 2e-6
    torch.testing.assert_close(schedule.alphas[where], found[:, 0], rtol=1e-5, atol=tolerance)
    torch.testing.assert_close(schedule.sigmas[where], found[:, 1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", sorted(ACCEPTED))
@pytest.mark.parametrize(
    ("field", "message"),
    [({"use_flow_sigmas": True}, "use_flow_sigmas is True"), ({"timestep_type": "continuous"}, "timestep_type is ")],
)
def test_noised_otherwise(name, field, message):
    with pytest.raises(UserError, match=f"scheduler_config.json: {message}.*expected"):
        schedule_from_config({"_class_name": name} | field, "scheduler_config.json")


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_a_field_that_its_scheduler_ignores(name):
    """Which of the two the network was trained with is not known."""
    with pytest.raises(UserError, match="rescale_betas_zero_snr is True, expected false"):
        schedule_from_config({"_class_name": name, "rescale_betas_zero_snr": True}, "here.json")


@pytest.mark.parametrize("sampling", ["use_karras_sigmas", "thresholding", "clip_sample", "set_alpha_to_one"])
def test_how_it_samples_does_not_matter(sampling):
    plain = schedule_from_config({"_class_name": "EulerDiscreteScheduler"}, "here.json")
    found = schedule_from_config({"_class_name": "EulerDiscreteScheduler", sampling: True}, "here.json")
    assert torch.equal(found.alphas, plain.alphas)
