"""Measures of samples beside a manifold, where each is known."""

import pytest
import torch

from smartfast.core.plane import SHAPES, draw_points, nodes_of
from smartfast.metrics.manifold import TOLERANCE, manifold_measures

RING, _ = nodes_of(SHAPES["ring"])


def test_the_data_themselves_are_on_the_data() -> None:
    assert manifold_measures(RING, RING) == pytest.approx((0, 0, 0, 1))


@pytest.mark.parametrize("gap", [0.03, 0.2])
def test_a_larger_ring_is_off_by_its_gap(gap: float) -> None:
    off, distance, wasserstein, covered = manifold_measures(RING * (0.8 + gap) / 0.8, RING)
    assert (off, covered) == ((0, 1) if gap < TOLERANCE else (1, 0))
    assert distance == pytest.approx(gap) and wasserstein == pytest.approx(gap)  # each point to the one on its radius


def test_a_share_of_the_samples_is_off() -> None:
    samples = torch.cat([RING[:150], torch.zeros(50, 2)])
    found = manifold_measures(samples, RING)
    assert found.off == 0.25 and found.distance == pytest.approx(0.8 / 4)


def test_moving_all_points_costs_the_way() -> None:
    points = draw_points(SHAPES["square"], 400).double()
    assert manifold_measures(points + torch.tensor([0.3, 0.4]), points).wasserstein == pytest.approx(0.5)


def test_modes_that_no_sample_reaches() -> None:
    modes, _ = nodes_of(SHAPES["modes"])
    found = manifold_measures(modes[:3].repeat(10, 1), modes.repeat(50, 1))
    assert found.covered == 3 / 8 and found.off == 0


def test_half_the_modes_cost_the_way_to_the_other_half() -> None:
    """W_1 of a point at -1 to equal shares at -1 and 1 is half of 2."""
    samples, reals = -torch.ones(64, 1), torch.tensor([[-1.0], [1.0]]).repeat(32, 1)
    assert manifold_measures(samples, reals).wasserstein == pytest.approx(1)
