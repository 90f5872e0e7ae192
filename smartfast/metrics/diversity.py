"""Within-class diversity: how different from one another the fakes of a class are, compared with the reals."""

import math

import torch
from torch import Tensor

MAX_PER_CLASS = 1000
"""Most images of a class, evenly spaced, whose pairwise distances are taken."""

SAME_IMAGE = 1e-4
"""Distance relative to the features' length up to which images are one: rounding depends on the batch they are in."""


def within_class_diversity(
    fakes: Tensor, fake_labels: Tensor | None, reals: Tensor, real_labels: Tensor | None
) -> float:
    """Mean pairwise feature distance within a class, fakes relative to reals, averaged over the classes.

        diversity = mean over classes c of  d(fakes of c) / d(reals of c)
        d(x_1..x_n) = 2 / (n (n - 1)) * sum over i < j of ||x_i - x_j||

    1 means as diverse as the data, 0 that each class shows a single image. Recall falls too when a class collapses,
    but also when quality falls; this number does not ask where the fakes lie, only how far apart, so fakes that do not
    show their class can exceed 1. It is ours, not from the literature.

    Args:
        fakes, reals: Features float [n, D].
        fake_labels, real_labels: Class indices int64 [n]; if either is None, all images are one class.

    Returns:
        The mean over the classes that have two fakes and two different reals at least; NaN if none has.
    """
    if fake_labels is None or real_labels is None:
        return _relative_spread(fakes, reals)
    classes = sorted(set(fake_labels.tolist()) & set(real_labels.tolist()))
    ratios = [_relative_spread(fakes[fake_labels == c], reals[real_labels == c]) for c in classes]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    return sum(ratios) / len(ratios) if ratios else math.nan


def _relative_spread(fakes: Tensor, reals: Tensor) -> float:
    of_fakes, of_reals = _mean_distance(fakes), _mean_distance(reals)
    length = reals.to(torch.float64).norm(dim=1).mean().item()
    return of_fakes / of_reals if of_reals > SAME_IMAGE * length else math.nan


def _mean_distance(features: Tensor) -> float:
    if len(features) < 2:
        return math.nan
    count = min(len(features), MAX_PER_CLASS)
    chosen = features[torch.arange(count) * len(features) // count]
    return torch.pdist(chosen.to(torch.float64)).mean().item()
