"""Before training: whether a scorer can score at all, or only leaves every score term out or blind."""

import torch
from torch import Tensor

from smartfast.errors import UserError
from smartfast.scorers.base import Scorer
from smartfast.scorers.interval import TimestepRange
from smartfast.scorers.self_check import self_check

# The best network is as far from the least of noise as zero is, give or take the chance of a few images; one that was
# never trained is 2 % to 30 % further.
_CHANCE = 0.01
_TRIED = 16  # images, or up to twice as many
_AT_A_TIME = 2  # takes no more memory than a round of training


@torch.no_grad()
def check_predictions(
    scorer: Scorer,
    timesteps: TimestepRange,
    images: Tensor,
    labels: Tensor | None,
    *,
    name: str,
    compare_readings: bool = False,
) -> list[str]:
    """Score a few real images at both ends of the interval, where every prediction is to be finite.

    They are to be better than nothing: in the mean square and over both ends no further from their target (eps, x0 or
    v) than zero is. Not at each end, for the least noise is hard to see for the best of networks, and on images a
    little unlike its own such a network sees some where there is none.

    Args:
        scorer: The scorer.
        timesteps: The interval.
        images: Real ones, float [N, C, H, W] in [-1, 1] as the scorer sees them, on its device.
        labels: Their classes, int64 [N], or None.
        name: Of the scorer, for messages.
        compare_readings: Whether other readings of its file, and of the images, are to be no better: see `self_check`.

    Returns:
        Lines for the log.

    Raises:
        UserError: Weights or predictions that are not finite, a network that does not run on such images, one that
            is better read otherwise, or one that predicts nothing or worse.
    """
    dtype = str(scorer.dtype).removeprefix("torch.")
    for weight, values in scorer.state_dict().items():
        if not bool(values.isfinite().all()):
            worst = values[~values.isfinite()][0].item()
            raise UserError(f"smart.scorer: {name!r} has {worst} in {weight}, expected finite weights (in {dtype})")
    ends = (timesteps.first, timesteps.last)
    every = max(len(images) // _TRIED, 1)
    few, their = images[::every], None if labels is None else labels[::every]
    shares = [_error_over_that_of_zero(scorer, few, their, t, name) for t in ends]
    lines = self_check(scorer, timesteps, images, labels, name=name) if compare_readings else []
    if sum(shares) / len(shares) > 1 + _CHANCE:
        raise UserError(
            f"smart.scorer: {name!r} predicts no better than zero would: its squared error is {shares[0]:.3g} and "
            f"{shares[1]:.3g} times that of zero at t = {ends[0]} and {ends[1]}, expected less than 1 (a network "
            "trained on images like these, or an interval of more noise)"
        )
    return lines


def _error_over_that_of_zero(scorer: Scorer, images: Tensor, labels: Tensor | None, t: int, name: str) -> float:
    """Ratio of two mean squared errors at timestep t; infinite for a network that says zero itself."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(t)).to(images)
    alpha, sigma = float(scorer.alphas[t]), float(scorer.sigmas[t])
    target = {"eps": noise, "x0": images, "v": alpha * noise - sigma * images}[scorer.parameterization]
    x_t, timesteps = alpha * images + sigma * noise, torch.full((len(images),), t, device=images.device)
    parts = torch.arange(len(images)).split(_AT_A_TIME)
    try:
        predictions = [scorer.network(x_t[i], timesteps[i], None if labels is None else labels[i]) for i in parts]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a network that was built wrongly runs into
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"smart.scorer: {name!r} does not run ({reason}), expected a network of {list(images.shape[1:])} images"
        ) from error
    prediction = torch.cat(predictions).to(target)
    if not bool(prediction.isfinite().all()):
        dtype = str(scorer.dtype).removeprefix("torch.")
        raise UserError(
            f"smart.scorer: {name!r} predicts numbers that are not finite at t = {t} in {dtype}, "
            "expected finite ones (another smart.precision or interval may give them)"
        )
    if not bool(prediction.any()):
        return float("inf")
    return float((prediction - target).square().mean() / target.square().mean())
