"""Frozen diffusion models: what score-matching regularity asks how an image should change."""

from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.base import Scorer
from smartfast.scorers.diffusers import UNetScorer
from smartfast.scorers.interval import TimestepRange, timestep_range
from smartfast.scorers.loading import check_scorer, load_scorer
from smartfast.scorers.trial import check_predictions

__all__ = [
    "GaussianMixtureScorer",
    "Scorer",
    "TimestepRange",
    "UNetScorer",
    "check_predictions",
    "check_scorer",
    "load_scorer",
    "timestep_range",
]
