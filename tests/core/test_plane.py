"""Points of the plane: each distribution against what its name says, and averages over its nodes against integrals."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from smartfast.core.plane import SHAPES, draw_points, nodes_of, picture, shape_named
from smartfast.errors import UserError


def radius(points: Tensor) -> Tensor:
    return points.double().norm(dim=1)


def on_the_spiral(points: Tensor) -> Tensor:
    """Whether the angle is the one that the radius stands for: a quarter turn to two turns, in proportion."""
    turns = 2 * radius(points) / 0.8
    angle = torch.atan2(points[:, 1], points[:, 0]).double() / (2 * math.pi)
    return ((turns - angle - (turns - angle).round()).abs() < 1e-5) & (turns > 0.25 - 1e-6) & (turns < 2 + 1e-6)


RULES = {
    "ring": lambda p: (radius(p) - 0.8).abs() < 1e-6,
    "spiral": on_the_spiral,
    "modes": lambda p: (
        torch.cdist(p, torch.tensor([[0.8 * math.cos(a), 0.8 * math.sin(a)] for a in EIGHTHS])).min(1)[0] < 1e-6
    ),
    "lines": lambda p: ((p[:, 1].abs() - 0.4).abs() < 1e-6) & (p[:, 0].abs() <= 0.8),
    "square": lambda p: p.abs().amax(dim=1) <= 0.8,
    "gaussian": lambda p: radius(p) < 3,
}
EIGHTHS = [2 * math.pi * k / 8 for k in range(8)]
TURN = 0.64 / 2
SECOND_MOMENTS = {
    "ring": (TURN, TURN),
    "modes": (TURN, TURN),
    "lines": (0.64 / 3, 0.16),
    "square": (0.64 / 3, 0.64 / 3),
    "gaussian": (0.35**2, 0.35**2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_points_lie_where_the_name_says(name: str) -> None:
    points = draw_points(SHAPES[name], 4096)
    assert points.dtype == torch.float32 and points.shape == (4096, 2)
    assert RULES[name](points).all() and torch.equal(points, draw_points(SHAPES[name], 4096))


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_second_moments_of_points_and_nodes(name: str) -> None:
    expected = torch.tensor(SECOND_MOMENTS[name], dtype=torch.float64)
    of_points = draw_points(SHAPES[name], 2**16).double().square().mean(dim=0)
    nodes, weights = nodes_of(SHAPES[name])
    of_nodes = weights @ nodes.square() + SHAPES[name].std ** 2
    assert torch.allclose(of_points, expected, rtol=0.02)
    assert torch.allclose(of_nodes, expected, rtol=1e-9)


def test_the_spiral_is_uniform_in_length() -> None:
    u = np.stack([np.linspace(0, 1, 1001), np.zeros(1001)], axis=1)
    steps = np.linalg.norm(np.diff(SHAPES["spiral"].place(u), axis=0), axis=1)
    assert steps.min() > 0.999 * steps.max()


def test_the_modes_are_equally_likely() -> None:
    points = draw_points(SHAPES["modes"], 2**16)
    which = (torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi) * 8).round().long() % 8
    assert (which.bincount(minlength=8) / 2**13 - 1).abs().max() < 0.05


def test_only_what_fills_an_area_is_no_manifold() -> None:
    assert {name for name, shape in SHAPES.items() if not shape.is_manifold} == {"square", "gaussian"}


def test_a_picture_has_a_dot_where_the_point_is() -> None:
    drawn = picture(torch.tensor([[0.6, -1.19], [0.0, 5.0]]), pixels=8)
    assert drawn.shape == (1, 3, 8, 8) and drawn.dtype == torch.uint8
    assert (drawn != 255).any(dim=1).nonzero().tolist() == [[0, 7, 6]]


def test_another_name_is_one_line() -> None:
    with pytest.raises(UserError, match="^data.path is plane:cube, expected one of plane:ring, plane:spiral, "):
        shape_named("plane:cube", "data.path")
