"""Before training: whether a scorer finds noise in the images better when its file, or they, are read otherwise.

A wrong attention order, schedule or preconditioning loads and runs, and its gradient is worth nothing. Whatever the
reading, the network gets the same noised images and is asked for the same eps, so errors compare image by image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smartfast.core.draws import Purpose
from smartfast.errors import UserError
from smartfast.scorers.base import Scorer
from smartfast.scorers.interval import TimestepRange
from smartfast.scorers.readings import IMAGES, Reading, readings, shifts
from smartfast.scorers.term import score_loss

FEWEST = 8
"""Images below which errors are not compared."""
_TIMESTEPS = 4  # of the interval
_LEAST_NOISE = range(2, 9)  # where neighbouring timesteps differ most; a shift of 2 stays at 0 or above
_DEVIATIONS = 3.5
_MARGIN, _MARGIN_OF_SHIFTS = 0.05, 0.02
_AT_A_TIME = 8
_WORST = 1e12
_OPTION = "smart.scorer_options."


@dataclass(frozen=True)
class Comparison:
    """Of one reading with the one in use.

    text: What it is.
    ratio: Its squared error over that of the one in use, the geometric mean over images.
    deviations: By how many standard errors the mean logarithm of that is above 0.
    margin: By how much less than 1 a ratio is clear.
    """

    text: str
    ratio: float
    deviations: float
    margin: float = _MARGIN

    @property
    def is_better(self) -> bool:
        return self.ratio < 1 - self.margin and self.deviations < -_DEVIATIONS

    @property
    def is_told_apart(self) -> bool:
        return abs(math.log(self.ratio)) > -math.log1p(-self.margin) and abs(self.deviations) > _DEVIATIONS


@torch.no_grad()
def self_check(
    scorer: Scorer, timesteps: TimestepRange, images: Tensor, labels: Tensor | None, *, name: str
) -> list[str]:
    """Compare a scorer with its other readings on real images.

    Args:
        scorer: The scorer, one that runs.
        timesteps: The interval, a few timesteps of which are tried; shifted timesteps are tried at the least noise.
        images: Real ones, float [N, C, H, W] in [-1, 1] as the scorer sees them, on its device.
        labels: Their classes, int64 [N], or None.
        name: Of the scorer, for messages.

    Returns:
        Lines for the log.

    Raises:
        UserError: Another reading is clearly better.
    """
    count = len(images)
    if count < FEWEST:
        return [f"self-check: left out, {count} images are fewer than {FEWEST}"]
    places = torch.arange(count, device=images.device)
    tried = torch.linspace(timesteps.first, timesteps.last, _TIMESTEPS).round().long().unique().to(images.device)
    t = tried[places % len(tried)]
    usual = _errors(scorer, images, labels, t)
    others = [_read(reading, usual, scorer, images, labels, t) for reading in readings(scorer)]
    of_images = [
        _compared(f"images {what}", _errors(scorer, change(images), labels, t), usual)
        for what, change in IMAGES.items()
        if scorer.channels > 1 or "channels" not in what
    ]
    if scorer.num_classes and labels is not None:
        of_others = _errors(scorer, images, labels.roll(count // 2), t)
        of_images.append(_compared("classes of other images", of_others, usual))
    _refuse(others, name, count, _OPTION)
    _refuse(of_images, name, count)
    shifted = _shifted(scorer, images, labels, places)
    _refuse(shifted, name, count, _OPTION)
    return _lines(usual, tried, _error_of_a_linear_filter(scorer, images, t), [*others, *of_images, *shifted])


def _read(
    reading: Reading, usual: Tensor, scorer: Scorer, images: Tensor, labels: Tensor | None, t: Tensor
) -> Comparison:
    with reading.opened():
        return _compared(reading.text, _errors(scorer, images, labels, t), usual)


def _shifted(scorer: Scorer, images: Tensor, labels: Tensor | None, places: Tensor) -> list[Comparison]:
    """At timesteps of their own, for those of the interval may be all the same to the best of networks."""
    if scorer.num_timesteps <= _LEAST_NOISE[-1]:
        return []
    t = torch.tensor(_LEAST_NOISE, device=images.device)[places % len(_LEAST_NOISE)]
    usual = _errors(scorer, images, labels, t)
    found = [_read(reading, usual, scorer, images, labels, t) for reading in shifts(scorer)]
    return [replace(comparison, margin=_MARGIN_OF_SHIFTS) for comparison in found]


def _errors(scorer: Scorer, images: Tensor, labels: Tensor | None, t: Tensor) -> Tensor:
    """Mean (eps_theta - eps)^2 of each image, float64 [N]; the same noise at every call."""
    places = torch.arange(len(images), device=images.device)
    parts = [
        score_loss(
            scorer,
            images[part],
            None if labels is None else labels[part],
            t[part],
            seed=0,
            stream=part,
            purpose=Purpose.SELF_CHECK,
            distance="eps",
        )
        for part in places.split(_AT_A_TIME)
    ]
    return torch.cat(parts).double().nan_to_num(nan=_WORST, posinf=_WORST).clamp(1e-12, _WORST)


def _compared(text: str, errors: Tensor, usual: Tensor) -> Comparison:
    logarithms = (errors / usual).log()
    deviation = (logarithms.std() / math.sqrt(len(usual))).clamp(min=1e-9)
    return Comparison(text, float(logarithms.mean().exp()), float(logarithms.mean() / deviation))


def _error_of_a_linear_filter(scorer: Scorer, images: Tensor, t: Tensor) -> float:
    """Mean (eps_hat - eps)^2 of the best stationary linear filter of x_t, Wiener's, that knows the images' spectrum.

    With S(f) the mean power of the images, x_t at frequency f tells alpha^2 S + sigma^2 of power, of which sigma^2 is
    the noise: alpha^2 S / (alpha^2 S + sigma^2) of it stays unknown.
    """
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean(dim=0)
    alpha, sigma = (part.double()[:, None, None, None] for part in (scorer.alpha(t), scorer.sigma(t)))
    signal = alpha.square() * power
    return float((signal / (signal + sigma.square())).mean())


def _refuse(comparisons: Sequence[Comparison], name: str, count: int, option: str = "") -> None:
    """Raises UserError where the best of the comparisons is clearly better than what is in use.

    option: What stands before the names of options.
    """
    better = [comparison for comparison in comparisons if comparison.is_better]
    if better:
        best = min(better, key=lambda comparison: comparison.ratio)
        text = " and ".join(option + part for part in best.text.split(" and "))
        raise UserError(
            f"smart.scorer: {name!r} finds noise clearly better with {text}: {best.ratio:.3g} times the squared error "
            f"of what is in use, {-best.deviations:.0f} standard errors below 1 on {count} images, expected no other "
            "reading to be better (smart.self_check false trains all the same)"
        )


def _lines(usual: Tensor, tried: Tensor, linear: float, comparisons: Sequence[Comparison]) -> list[str]:
    error, at = float(usual.mean()), ", ".join(map(str, tried.tolist()))
    apart = [f"{one.text} {one.ratio:.3g}" for one in comparisons if one.is_told_apart]
    alike = [f"{one.text} {one.ratio:.3g}" for one in comparisons if not one.is_told_apart]
    lines = [
        f"self-check: squared error of eps {error:.3g} on {len(usual)} images at t = {at} (of a linear filter "
        f"{linear:.3g}, of nothing 1)"
    ]
    if comparisons:
        told = f"read otherwise, times {'; '.join(apart) or 'none told apart'}"
        lines.append(f"self-check: {told}" + (f"; not told apart: {'; '.join(alike)}" if alike else ""))
    if error > linear:
        lines.append(
            "self-check: WARNING: no better than a linear filter that knows the images' spectrum: a scorer of other "
            "data, or an interval of less noise than it has learnt"
        )
    return lines
