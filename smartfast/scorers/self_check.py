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
from smartfast.scorers.readings import FAR, NEAR, OPTION, Reading, changes_of, readings, shifts
from smartfast.scorers.term import score_loss

FEWEST = 16
"""Images below which errors are not compared."""
_TIMESTEPS = 4  # of the interval
_RATIOS = (0.2, 0.5, 1.0, 2.0)  # noise to signal, beside the interval's: where readings differ most
_LEAST_NOISE = range(2, 10)  # where neighbouring timesteps differ most; a shift of 2 stays at 0 or above
_DEVIATIONS = 3.5
_MARGIN, _MARGIN_OF_SHIFTS = 0.05, 0.02
_AT_A_TIME = 8
_WORST = 1e12


@dataclass(frozen=True)
class Comparison:
    """Of one reading with the one in use.

    text: What it is.
    error: Its mean squared error of eps, of which predicting nothing has 1.
    ratio: Its error over that of the one in use, the geometric mean over images.
    deviations: By how many standard errors the mean logarithm of that is above 0.
    margin: By how much less than 1 a ratio is clear.
    """

    text: str
    error: float
    ratio: float
    deviations: float
    margin: float = _MARGIN

    @property
    def is_better(self) -> bool:
        return self.error < 1 and self.ratio < 1 - self.margin and self.deviations < -_DEVIATIONS

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
        timesteps: The interval, of which a few timesteps are tried, beside some of more noise; neighbouring timesteps
            are told apart at the least noise.
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
    of_interval = torch.linspace(timesteps.first, timesteps.last, _TIMESTEPS).round().long()
    levels = torch.stack([of_interval, _timesteps_of(scorer)], dim=1).flatten().tolist()
    sample = _Sample(scorer, images, labels, levels)
    found = [sample.read(reading) for reading in readings(scorer)]
    found += [sample.compare(f"images {what}", change(images)) for what, change in changes_of(images).items()]
    if scorer.num_classes and labels is not None:
        found.append(sample.compare("classes of other images", images, labels.roll(count // 2)))
    _refuse(found, name, count)
    is_inside = sample.level % 2 == 0
    error = float(sample.usual[is_inside].mean())
    linear = _error_of_a_linear_filter(scorer, images, sample.t[is_inside])
    shifted = [replace(sample.read(reading), margin=_MARGIN_OF_SHIFTS) for reading in shifts(scorer, FAR)]
    if scorer.num_timesteps > _LEAST_NOISE[-1] and scorer.learnt_interval is None:
        least = _Sample(scorer, images, labels, _LEAST_NOISE)
        shifted += [replace(least.read(reading), margin=_MARGIN_OF_SHIFTS) for reading in shifts(scorer, NEAR)]
    if error < linear:  # of other data, any reading that makes a scorer cautious looks better
        _refuse(shifted, name, count)
    lines = [
        f"squared error of eps {error:.3g} at t = {', '.join(map(str, of_interval.unique().tolist()))} on {count} "
        f"images (of a linear filter {linear:.3g}, of nothing 1)",
        *_told_apart([*found, *shifted]),
    ]
    if error >= linear:
        lines.append(
            "WARNING: no better than a linear filter that knows the images' spectrum: a scorer of other data, or an "
            "interval of less noise than it has learnt"
        )
    return [f"self-check: {line}" for line in lines]


class _Sample:
    """Real images that are noised, by turns, to some timesteps, and the errors of the reading in use.

    level: Place in `levels` of each image, int64 [N].
    t: Its timestep, int64 [N].
    usual: Its error, see `errors`.
    """

    def __init__(self, scorer: Scorer, images: Tensor, labels: Tensor | None, levels: Sequence[int]) -> None:
        self.scorer, self.images, self.labels = scorer, images, labels
        self.level = torch.arange(len(images), device=images.device) % len(levels)
        self.t = torch.tensor(levels, device=images.device)[self.level]
        self.usual = self.errors(images, labels)

    def errors(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean (eps_theta - eps)^2 of each image, float64 [N]; the same noise at every call."""
        places = torch.arange(len(images), device=images.device)
        parts = [
            score_loss(
                self.scorer,
                images[part],
                None if labels is None else labels[part],
                self.t[part],
                seed=0,
                stream=part,
                purpose=Purpose.SELF_CHECK,
                distance="eps",
            )
            for part in places.split(_AT_A_TIME)
        ]
        return torch.cat(parts).double().nan_to_num(nan=_WORST, posinf=_WORST).clamp(1e-12, _WORST)

    def read(self, reading: Reading) -> Comparison:
        """The scorer under another reading."""
        with reading.opened():
            return self.compare(reading.text, self.images, self.labels)

    def compare(self, text: str, images: Tensor, labels: Tensor | None = None) -> Comparison:
        """The scorer as it is now, on images and labels, None = the sample's own, with the errors in use."""
        errors = self.errors(images, self.labels if labels is None else labels)
        logarithms = (errors / self.usual).log()
        # Timesteps are chosen, not drawn: what varies between them is no doubt about the mean.
        sums = torch.zeros(int(self.level.max()) + 1, dtype=torch.float64, device=errors.device)
        means = sums.index_add(0, self.level, logarithms) / self.level.bincount()
        freedom = len(errors) - len(means)
        variance = (logarithms - means[self.level]).square().sum() / freedom
        deviation = (variance / len(errors)).sqrt().clamp(min=1e-9)
        mean = float(logarithms.mean())
        return Comparison(text, float(errors.mean()), math.exp(mean), mean / float(deviation))


def _timesteps_of(scorer: Scorer) -> Tensor:
    """Those whose noise to signal is nearest to `_RATIOS`, as far as the scorer has learnt them."""
    ratios = (scorer.sigmas.double() / scorer.alphas.double()).log().cpu()
    wanted = torch.tensor(_RATIOS, dtype=torch.float64).clamp(*(scorer.learnt_interval or (0.0, math.inf)))
    return (ratios - wanted.log()[:, None]).abs().argmin(dim=1)


def _error_of_a_linear_filter(scorer: Scorer, images: Tensor, t: Tensor) -> float:
    """Mean (eps_hat - eps)^2 of the best stationary linear filter of x_t, Wiener's, that knows the images' spectrum.

    With S(f) the mean power of the images, x_t at frequency f tells alpha^2 S + sigma^2 of power, of which sigma^2 is
    the noise: alpha^2 S / (alpha^2 S + sigma^2) of it stays unknown.
    """
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean(dim=0)
    alpha, sigma = (part.double()[:, None, None, None] for part in (scorer.alpha(t), scorer.sigma(t)))
    signal = alpha.square() * power
    return float((signal / (signal + sigma.square())).mean())


def _refuse(comparisons: Sequence[Comparison], name: str, count: int) -> None:
    """Raises UserError where the best of the comparisons is clearly better than what is in use."""
    better = [comparison for comparison in comparisons if comparison.is_better]
    if better:
        best = min(better, key=lambda comparison: comparison.ratio)
        raise UserError(
            f"smart.scorer: {name!r} finds noise clearly better with {best.text}: {best.ratio:.3g} times the squared "
            f"error of what is in use, {-best.deviations:.0f} standard errors below 1 on {count} images, expected no "
            "other reading to be better (smart.self_check false trains all the same)"
        )


def _told_apart(comparisons: Sequence[Comparison]) -> list[str]:
    """A line on what errors say of the other readings, none where there are none."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for one in comparisons:
        parts[one.is_told_apart].append(f"{one.text.replace(OPTION, '')} {one.ratio:.3g}")
    apart = [f"read otherwise, times {'; '.join(parts[True])}"] if parts[True] else []
    alike = [f"not told apart: {'; '.join(parts[False])}"] if parts[False] else []
    return ["; ".join(apart + alike)] if comparisons else []
