"""How far samples lie from data on a manifold, and how much of it they reach: for features that are coordinates."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from torch import Tensor

TOLERANCE = 0.05
"""Distance up to which a sample is on the data, and a real point is reached by a sample."""
_MATCHED = 512
"""Most samples and real points, evenly spaced, that are matched: time grows with their cube."""


class ManifoldMeasures(NamedTuple):
    """off: share of the samples farther than TOLERANCE from every real point. distance: mean to the nearest real point.
    wasserstein: mean distance of samples and real points matched one to one at least cost (W_1 of the two sets).
    covered: share of the real points within TOLERANCE of a sample; of a few equal modes, the share of modes found."""

    off: float
    distance: float
    wasserstein: float
    covered: float


def manifold_measures(fakes: Tensor, reals: Tensor) -> ManifoldMeasures:
    """Of samples [n, D] and real points [m, D], which are to lie much closer together than TOLERANCE."""
    found, known = fakes.double().numpy(), reals.double().numpy()
    to_real, _ = KDTree(known).query(found)
    to_fake, _ = KDTree(found).query(known)
    return ManifoldMeasures(
        off=float((to_real > TOLERANCE).mean()),
        distance=float(to_real.mean()),
        wasserstein=_matching_distance(found, known),
        covered=float((to_fake <= TOLERANCE).mean()),
    )


def _matching_distance(a: np.ndarray, b: np.ndarray) -> float:
    count = min(len(a), len(b), _MATCHED)
    a, b = (points[np.arange(count) * len(points) // count] for points in (a, b))
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    return float(distances[linear_sum_assignment(distances)].mean())
