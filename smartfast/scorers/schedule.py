"""The noise schedule of a diffusion model: alpha_t and sigma_t of every timestep, of diffusers' kinds and of EDM's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from smartfast.errors import UserError

# All of them train with x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps; they differ in how they sample.
SCHEDULER_CLASSES = tuple(
    scheduler.__name__
    for scheduler in (
        DDPMScheduler,
        DDIMScheduler,
        PNDMScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        UniPCMultistepScheduler,
        DEISMultistepScheduler,
    )
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
Parameterization = Literal["eps", "x0", "v"]
PARAMETERIZATIONS: dict[str, Parameterization] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_t and sigma_t of x_t = alpha_t x + sigma_t eps, float64 [T] by timestep, from least noise to most."""

    name: str
    alphas: Tensor
    sigmas: Tensor


def schedule_from_betas(betas: Tensor, name: str) -> NoiseSchedule:
    """Schedule of a variance-preserving process: abar_t = prod_{s <= t} (1 - beta_s) (Ho et al., DDPM, eq. 4).

    Args:
        betas: [T] of any float dtype.
        name: Shown to the user.
    """
    kept = torch.cumprod(1 - betas.to(torch.float64), dim=0)
    return NoiseSchedule(name, kept.sqrt(), (1 - kept).sqrt())


def edm_schedule(
    num_timesteps: int = 1000, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> NoiseSchedule:
    """Schedule of a variance-exploding process, x_t = x + sigma_t eps, with the noise levels of EDM in ascending order.

    sigma_t = (sigma_max^(1/rho) + i / (num_timesteps - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho with
    i = num_timesteps - 1 - t (Karras et al., arXiv 2206.00364, eq. 5); the defaults are those that SMaRt indexes.
    """
    largest, smallest = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = torch.linspace(smallest, largest, num_timesteps, dtype=torch.float64) ** rho
    return NoiseSchedule("edm", torch.ones_like(sigmas), sigmas)


def parameterization_of(config: Mapping[str, Any], where: str) -> Parameterization:
    """`eps`, `x0` or `v`, from `prediction_type` of a diffusers scheduler config.

    Raises:
        UserError: Unknown prediction type.
    """
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PARAMETERIZATIONS:
        expected = ", ".join(PARAMETERIZATIONS)
        raise UserError(f"{where}: prediction_type is {prediction_type!r}, expected one of {expected}")
    return PARAMETERIZATIONS[prediction_type]


def schedule_from_config(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """The schedule that a diffusers scheduler config describes.

    The betas are diffusers' own; their product is taken in float64, because 1 - abar_t of the first
    timesteps has only three digits in float32.

    Args:
        config: Content of scheduler_config.json.
        where: The file, for messages.

    Raises:
        UserError: Another kind of scheduler, an unknown beta schedule, or values that diffusers refuses.
    """
    kind = config.get("_class_name", DDPMScheduler.__name__)
    if kind not in SCHEDULER_CLASSES:
        raise UserError(f"{where}: scheduler is {kind}, expected one of {', '.join(SCHEDULER_CLASSES)}")
    trained = config.get("trained_betas") is not None
    name = "trained_betas" if trained else config.get("beta_schedule", "linear")
    if not trained and name not in BETA_SCHEDULES:
        raise UserError(f"{where}: beta_schedule is {name!r}, expected one of {', '.join(BETA_SCHEDULES)}")
    arguments = {key: config[key] for key in _SCHEDULE_KEYS if key in config}
    if not trained:
        arguments["beta_schedule"] = name
    try:
        betas = DDPMScheduler(**arguments).betas
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{where}: diffusers cannot build this scheduler ({reason}), expected its own values"
        ) from error
    if not bool(((betas > 0) & (betas <= 1)).all()):
        raise UserError(f"{where}: betas lie in {betas.min():.3g}..{betas.max():.3g}, expected 0 < beta <= 1")
    return schedule_from_betas(betas, name)
