"""The noise schedule of a diffusion model: alpha_t and sigma_t of every timestep, of diffusers' kinds and of EDM's."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.scorers.fields import check_fields

# All of them train with x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps; they differ in how they sample. Those in terms of
# sigma scale their x + sigma eps to it before the network sees it.
SCHEDULER_CLASSES = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
Parameterization = Literal["eps", "x0", "v"]
PARAMETERIZATIONS: dict[str, Parameterization] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_NOISE_FIELDS = {
    "num_train_timesteps": int,
    "beta_start": float,
    "beta_end": float,
    "beta_schedule": str,
    "trained_betas": list[float] | None,
    "rescale_betas_zero_snr": bool,
}
# Of schedulers in every version: with these it is another process, or another time that the network is told.
_OTHER_NOISE = {"use_flow_sigmas": (bool, False), "timestep_type": (str, "discrete")}
_FIELDS = _NOISE_FIELDS | {field: kind for field, (kind, _) in _OTHER_NOISE.items()} | {"_class_name": str}
_RANGES = {"num_train_timesteps": (1, 1_000_000), "beta_start": (0, 1), "beta_end": (0, 1)}


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_t and sigma_t of x_t = alpha_t x + sigma_t eps, float64 [T] by timestep, from least noise to most.

    times: What the network is told at each timestep, int64 [T]; None = the timestep.
    """

    name: str
    alphas: Tensor
    sigmas: Tensor
    times: Tensor | None = None


def shifted(schedule: NoiseSchedule, by: int) -> NoiseSchedule:
    """The same noise of a network that counts it from another number, never below 0."""
    times = torch.arange(len(schedule.alphas)) + by
    return replace(schedule, times=times.clamp(min=0)) if by else schedule


def schedule_from_betas(betas: Tensor, name: str) -> NoiseSchedule:
    """Schedule of a variance-preserving process: abar_t = prod_{s <= t} (1 - beta_s) (Ho et al., DDPM, eq. 4).

    Args:
        betas: [T] of any float dtype.
        name: Shown to the user.
    """
    kept = torch.cumprod(1 - betas.to(torch.float64), dim=0)
    return NoiseSchedule(name, kept.sqrt(), (1 - kept).sqrt())


def check_betas(betas: Tensor, where: str) -> None:
    """Raises UserError, with the file for its message, unless betas [T] are the shares of noise of a process."""
    if not bool(((betas > 0) & (betas <= 1)).all()) or not len(betas):
        found = f"lie in {betas.min():.3g}..{betas.max():.3g}" if len(betas) else "are none"
        raise UserError(f"{where}: betas {found}, expected 0 < beta <= 1")


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
    check_fields(config, {"prediction_type": str}, where)
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PARAMETERIZATIONS:
        expected = ", ".join(PARAMETERIZATIONS)
        raise UserError(f"{where}: prediction_type is {prediction_type!r}, expected one of {expected}")
    return PARAMETERIZATIONS[prediction_type]


def schedule_from_config(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """The schedule that a diffusers scheduler config describes.

    The betas are those of diffusers' own scheduler; their product is taken in float64, because 1 - abar_t of the first
    timesteps has only three digits in float32.

    Args:
        config: Content of scheduler_config.json.
        where: The file, for messages.

    Raises:
        UserError: No object, a field of the wrong type or out of range, another kind of scheduler or of noise, an
            unknown beta schedule, or values that diffusers refuses.
    """
    check_fields(config, _FIELDS, where)
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in SCHEDULER_CLASSES:
        raise UserError(f"{where}: _class_name is {kind}, expected one of {', '.join(SCHEDULER_CLASSES)}")
    for field, (_, usual) in _OTHER_NOISE.items():
        if config.get(field, usual) != usual:
            raise UserError(f"{where}: {field} is {config[field]}, expected {usual}: its noise is read no other way")
    for field, (least, most) in _RANGES.items():
        if not least <= config.get(field, least) <= most:
            raise UserError(f"{where}: {field} is {config[field]}, expected {least} to {most}")
    scheduler = _scheduler(getattr(diffusers, kind), config, where)
    betas = scheduler.betas
    check_betas(betas, where)
    trained = config.get("trained_betas") is not None
    return schedule_from_betas(betas, "trained_betas" if trained else scheduler.config["beta_schedule"])


def _scheduler(kind: Any, config: Mapping[str, Any], where: str) -> Any:
    """A scheduler of diffusers, with those fields of a config that make its noise."""
    arguments = {field: config[field] for field in _NOISE_FIELDS if field in config}
    if arguments.get("trained_betas") is not None:
        arguments.pop("beta_schedule", None)
    elif (name := arguments.get("beta_schedule", "linear")) not in BETA_SCHEDULES:
        raise UserError(f"{where}: beta_schedule is {name!r}, expected one of {', '.join(BETA_SCHEDULES)}")
    if "rescale_betas_zero_snr" not in inspect.signature(kind.__init__).parameters:
        if arguments.pop("rescale_betas_zero_snr", False):
            raise UserError(f"{where}: rescale_betas_zero_snr is True, expected false: {kind.__name__} ignores it")
    try:
        return kind(**arguments)
    except (ArithmeticError, ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{where}: diffusers cannot build this scheduler ({reason}), expected its own values"
        ) from error
