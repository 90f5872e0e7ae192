"""The exact scorers of the plane against derivatives of log densities that are written down, in float64."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf, ive, logsumexp

from smartfast.core.plane import SHAPES
from smartfast.errors import UserError
from smartfast.scorers import load_scorer
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.plane import FORMAT

Density = Callable[[np.ndarray, float, float], np.ndarray]
STEP = 1e-4


def ring(x: np.ndarray, a: float, s: float) -> np.ndarray:
    """The average of exp(k cos) over a turn is the Bessel function I_0(k)."""
    r, radius = np.linalg.norm(x, axis=1), 0.8 * a
    return np.log(ive(0, radius * r / s**2)) - (r - radius) ** 2 / (2 * s**2)


def uniform(x: np.ndarray, half: float, s: float) -> np.ndarray:
    return np.log(erf((x + half) / (s * math.sqrt(2))) - erf((x - half) / (s * math.sqrt(2))))


def normal(x: np.ndarray, mean: float, s: float) -> np.ndarray:
    return -((x - mean) ** 2) / (2 * s**2)


def lines(x: np.ndarray, a: float, s: float) -> np.ndarray:
    across = np.logaddexp(normal(x[:, 1], 0.4 * a, s), normal(x[:, 1], -0.4 * a, s))
    return uniform(x[:, 0], 0.8 * a, s) + across


def square(x: np.ndarray, a: float, s: float) -> np.ndarray:
    return uniform(x[:, 0], 0.8 * a, s) + uniform(x[:, 1], 0.8 * a, s)


def gaussian(x: np.ndarray, a: float, s: float) -> np.ndarray:
    return -(x**2).sum(axis=1) / (2 * (0.35**2 * a**2 + s**2))


def averaged(points: np.ndarray) -> Density:
    def log_density(x: np.ndarray, a: float, s: float) -> np.ndarray:
        return logsumexp(-((x[:, None] - a * points) ** 2).sum(axis=2) / (2 * s**2), axis=1)

    return log_density


TURNS = np.arange(8) / 8 * 2 * math.pi
ANGLES = np.linspace(math.pi / 2, 4 * math.pi, 20001)


def spiral(x: np.ndarray, a: float, s: float) -> np.ndarray:
    """An integral over the angle, by trapezia, with the length of the curve r = 0.8 angle / 4 pi as its weight."""
    r = 0.8 * ANGLES / (4 * math.pi)
    weight = np.sqrt(r**2 + (0.8 / (4 * math.pi)) ** 2)
    weight[[0, -1]] /= 2
    points = np.stack([r * np.cos(ANGLES), r * np.sin(ANGLES)], axis=1)
    return logsumexp(-((x[:, None] - a * points) ** 2).sum(axis=2) / (2 * s**2), axis=1, b=weight)


DENSITIES: dict[str, Density] = {
    "ring": ring,
    "spiral": spiral,
    "modes": averaged(0.8 * np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1)),
    "lines": lines,
    "square": square,
    "gaussian": gaussian,
}


def scorer_of(name: str) -> GaussianMixtureScorer:
    return FORMAT.load(Path(name), where=name, device="cpu", dtype=torch.float64, null_class=None)


@pytest.mark.parametrize("timestep", [12, 100, 600])
@pytest.mark.parametrize("name", SHAPES)
def test_noise_is_the_derivative_of_the_log_density(name: str, timestep: int) -> None:
    """eps = -sigma d log p / dx, by differences of the written log density."""
    scorer, count = scorer_of(name), 40
    t = torch.full((count,), timestep)
    a, s = float(scorer.alpha(t)[0].double()), float(scorer.sigma(t)[0].double())
    x = np.random.default_rng(timestep).uniform(-1.1, 1.1, (count, 2))
    density = DENSITIES[name]
    slopes = [(density(x + e, a, s) - density(x - e, a, s)) / (2 * STEP) for e in STEP * np.eye(2)]
    found = scorer.predict_eps(torch.from_numpy(x)[:, :, None, None], t).flatten(1).numpy()
    assert np.abs(found + s * np.stack(slopes, axis=1)).max() < 1e-4 * np.abs(found).max()


def test_the_square_needs_noise() -> None:
    """At noise far below 0.05, the average over nodes is one over points: a limit that `nodes_of` states."""
    scorer = scorer_of("square")
    x, a = torch.tensor([[0.31, 0.12]], dtype=torch.float64)[:, :, None, None], torch.tensor([0])
    assert scorer.predict_eps(x, a).abs().max() > 0.1  # of a uniform density it would be 0


def test_it_is_loaded_by_name_in_the_usual_precision() -> None:
    scorer = load_scorer("plane:modes", precision="fp32")
    assert scorer.image_shape == (2, 1, 1) and scorer.num_timesteps == 1000 and scorer.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "null_class", "line"),
    [
        ("plane:cube", None, "smart.scorer is cube, expected one of plane:ring"),
        ("plane:ring", 3, "smart.null_class is 3"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, null_class: int | None, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        load_scorer(name, null_class=null_class)
