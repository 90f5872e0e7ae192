"""The interval that t is drawn from, in both of its forms: timesteps, and noise-to-signal ratios sigma_t / alpha_t.

An interval of timesteps means something only together with its schedule: t = 25..35 is a ratio of 0.10 to 0.13
under the linear schedule of 1000 steps, and of 0.05 to 0.07 under the cosine one.
"""

import math
from dataclasses import dataclass

import torch

from smartfast.config.schema import SmartConfig
from smartfast.errors import UserError
from smartfast.scorers.base import Scorer

PAPER_NOISE_TO_SIGNAL = {32: (0.005, 0.0078), 64: (0.051, 0.068), 128: (0.095, 0.13), 256: (0.095, 0.13)}
"""SMaRt's intervals by resolution, of its timesteps under its scorers' schedules: EDM's sigmas, ADM's cosine at 64
pixels and ADM's linear schedule."""

_ROUNDING = 1e-6
"""Of the scorer's own alphas and sigmas, which are float32."""


@dataclass(frozen=True)
class TimestepRange:
    """Timesteps `first`..`last`, both included, with sigma_t / alpha_t at the two ends; str() is a line for the log."""

    first: int
    last: int
    noise_to_signal_low: float
    noise_to_signal_high: float
    num_timesteps: int
    schedule: str

    def __str__(self) -> str:
        return (
            f"t = {self.first}..{self.last} of {self.num_timesteps} ({self.schedule}), "
            f"sigma/alpha = {self.noise_to_signal_low:.3g}..{self.noise_to_signal_high:.3g}"
        )

    def beside_the_papers(self, resolution: int) -> str:
        """The line, with the paper's interval for images of that size where it has one."""
        if resolution not in PAPER_NOISE_TO_SIGNAL:
            return str(self)
        low, high = PAPER_NOISE_TO_SIGNAL[resolution]
        return f"{self} (SMaRt's at {resolution} pixels: {low:g}..{high:g})"


def timestep_range(scorer: Scorer, config: SmartConfig) -> TimestepRange:
    """The interval of `smart.timesteps` or `smart.noise_to_signal` under the scorer's schedule.

    Raises:
        UserError: Both or neither of the two keys set, an interval that is empty, leaves the schedule or what the
            scorer has learnt (but with `smart.self_check` off), or holds a timestep without signal.
    """
    if config.timesteps is not None and config.noise_to_signal is not None:
        raise UserError(
            "smart.timesteps, smart.noise_to_signal: both are set, expected exactly one of them, the other null"
        )
    ratios = (scorer.sigmas.to(torch.float64) / scorer.alphas.to(torch.float64)).tolist()
    if config.timesteps is not None:
        first, last = _checked_timesteps(config.timesteps, ratios)
    elif config.noise_to_signal is not None:
        first, last = _timesteps_between(ratios, config.noise_to_signal)
    else:
        raise UserError(
            "smart.timesteps, smart.noise_to_signal: neither is set, expected exactly one of them, such as "
            "smart.noise_to_signal [0.095, 0.13] (SMaRt's at 256 pixels)"
        )
    found = TimestepRange(first, last, ratios[first], ratios[last], len(ratios), scorer.schedule)
    if scorer.learnt_interval is not None and config.self_check:
        low, high = scorer.learnt_interval
        if ratios[first] < low * (1 - _ROUNDING) or ratios[last] > high * (1 + _ROUNDING):
            raise UserError(
                f"smart.timesteps, smart.noise_to_signal: {found}, expected sigma/alpha within {low:g}..{high:g}, "
                "all that this distilled scorer has learnt (smart.self_check false trains all the same)"
            )
    return found


def whole_range(scorer: Scorer) -> TimestepRange:
    """Every timestep that has some signal."""
    ratios = (scorer.sigmas.to(torch.float64) / scorer.alphas.to(torch.float64)).tolist()
    last = max(t for t, ratio in enumerate(ratios) if math.isfinite(ratio))
    return TimestepRange(0, last, ratios[0], ratios[last], len(ratios), scorer.schedule)


def _checked_timesteps(timesteps: tuple[int, int], ratios: list[float]) -> tuple[int, int]:
    first, last = timesteps
    if not 0 <= first <= last < len(ratios):
        raise UserError(f"smart.timesteps: {first}, {last}, expected 0 <= first <= last <= {len(ratios) - 1}")
    if math.isinf(ratios[last]):
        raise UserError(
            f"smart.timesteps: {first}, {last}, expected timesteps with some signal, t = {last} has none (alpha is 0)"
        )
    return first, last


def _timesteps_between(ratios: list[float], interval: tuple[float, float]) -> tuple[int, int]:
    low, high = interval
    inside = [t for t, ratio in enumerate(ratios) if low <= ratio <= high]
    if not 0 < low <= high or not inside:
        raise UserError(
            f"smart.noise_to_signal: {low:g}, {high:g} holds no timestep, expected 0 < low <= high "
            f"within {ratios[0]:.3g}..{ratios[-1]:.3g}, the scorer's sigma_t / alpha_t"
        )
    return inside[0], inside[-1]
