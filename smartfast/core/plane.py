"""Distributions of points in the plane that are known in closed form: what `plane:ring` and its like name.

Four lie on curves or are a few points, so that a sample off them is off the data for sure; two fill the plane. A point
is an image of two channels and one pixel, float32 [2, 1, 1].
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from smartfast.errors import UserError

PREFIX = "plane:"
_HALF = 0.8
"""Half the width of every distribution but the Gaussian, and the radius of the ring."""
_GAUSSIAN_STD = 0.35
_MODES = 8
_VIEW = 1.2
"""Half the width of what `picture` shows."""


class Rule(NamedTuple):
    """Numbers of [0, 1] and weights of sum 1, float64 [n], that stand for a uniform number in an average."""

    nodes: np.ndarray
    weights: np.ndarray


def _midpoints(count: int) -> Rule:
    """For what is periodic, or constant between them."""
    return Rule((np.arange(count) + 0.5) / count, np.full(count, 1 / count))


def _gauss(count: int) -> Rule:
    """Gauss and Legendre's, for what has ends."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return Rule((nodes + 1) / 2, weights / 2)


@dataclass(frozen=True)
class Shape:
    """A distribution.

    place: From uniform numbers float64 [N, 2] to its points [N, 2].
    rules: What stands for either of those numbers in an average over the distribution.
    std: Standard deviation of what lies around each node, 0 = nothing.
    is_manifold: Whether it is of a lower dimension than the plane.
    """

    place: Callable[[np.ndarray], np.ndarray]
    rules: tuple[Rule, Rule]
    std: float = 0.0
    is_manifold: bool = True


def _polar(radius: float | np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _ring(u: np.ndarray) -> np.ndarray:
    return _polar(_HALF, 2 * math.pi * u[:, 0])


def _spiral(u: np.ndarray) -> np.ndarray:
    """Radius proportional to the angle, from a quarter turn to two turns, uniform in length."""
    angle = np.linspace(math.pi / 2, 4 * math.pi, 4001)
    steps = np.linalg.norm(np.diff(_polar(_HALF * angle / angle[-1], angle), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.interp(u[:, 0] * length[-1], length, angle)
    return _polar(_HALF * at / angle[-1], at)


def _modes(u: np.ndarray) -> np.ndarray:
    return _polar(_HALF, 2 * math.pi * np.floor(u[:, 0] * _MODES) / _MODES)


def _lines(u: np.ndarray) -> np.ndarray:
    """Two segments, one above the other."""
    return np.stack([_HALF * (2 * u[:, 0] - 1), _HALF * (np.floor(2 * u[:, 1]) - 0.5)], axis=1)


def _square(u: np.ndarray) -> np.ndarray:
    return _HALF * (2 * u - 1)


def _gaussian(u: np.ndarray) -> np.ndarray:
    """By Box and Muller."""
    return _polar(_GAUSSIAN_STD * np.sqrt(-2 * np.log1p(-u[:, 1])), 2 * math.pi * u[:, 0])


_ONE = _midpoints(1)
SHAPES: Mapping[str, Shape] = {
    "ring": Shape(_ring, (_midpoints(256), _ONE)),
    "spiral": Shape(_spiral, (_gauss(256), _ONE)),
    "modes": Shape(_modes, (_midpoints(_MODES), _ONE)),
    "lines": Shape(_lines, (_gauss(64), _midpoints(2))),
    "square": Shape(_square, (_gauss(48), _gauss(48)), is_manifold=False),
    "gaussian": Shape(_gaussian, (_ONE, _ONE), std=_GAUSSIAN_STD, is_manifold=False),
}


def shape_named(name: str, where: str) -> Shape:
    """The distribution that `plane:NAME` names; `where` is the setting, for the UserError where there is none."""
    shape = SHAPES.get(name.removeprefix(PREFIX))
    if shape is None:
        raise UserError(f"{where} is {name}, expected one of {', '.join(PREFIX + known for known in SHAPES)}")
    return shape


def draw_points(shape: Shape, count: int) -> Tensor:
    """Points of the distribution, float32 [count, 2], always the same."""
    return torch.from_numpy(shape.place(np.random.default_rng(0).random((count, 2)))).to(torch.float32)


def nodes_of(shape: Shape) -> tuple[Tensor, Tensor]:
    """Points float64 [K, 2] and weights [K] of sum 1, whose average, each with `std` around it, is one over the shape.

    Exact to 1e-4 for what noise of a deviation from 0.05 on smooths (tests/scorers/test_plane.py).
    """
    if shape.std:
        return torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    first, second = shape.rules
    grid = np.stack(np.meshgrid(first.nodes, second.nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(first.weights, second.weights).flatten()
    return torch.from_numpy(shape.place(grid)), torch.from_numpy(weights)


def picture(points: Tensor, pixels: int = 256) -> Tensor:
    """Points [N, 2] as dots on white, one picture uint8 [1, 3, pixels, pixels]; what lies outside is left out."""
    places = ((points.detach().cpu().to(torch.float64) / _VIEW + 1) / 2 * pixels).floor().to(torch.int64)
    column, row = places[((places >= 0) & (places < pixels)).all(dim=1)].unbind(dim=1)
    canvas = torch.full((pixels, pixels, 3), 255, dtype=torch.uint8)
    canvas[pixels - 1 - row, column] = torch.tensor([37, 99, 168], dtype=torch.uint8)
    return canvas.permute(2, 0, 1)[None].contiguous()
