"""Within-class diversity against distances written out by hand."""

import math

import pytest
import torch

from smartfast.metrics.diversity import MAX_PER_CLASS, within_class_diversity

TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # distances 3, 4, 5: mean 4
PAIR = torch.tensor([[1.0, 1.0], [1.0, 3.0]])  # distance 2


def test_mean_over_classes_of_the_ratio_of_mean_distances():
    reals = torch.cat([TRIANGLE, PAIR])
    real_labels = torch.tensor([0, 0, 0, 1, 1])
    fakes = torch.cat([TRIANGLE / 2 + 100, PAIR * 3])
    assert within_class_diversity(fakes, real_labels, reals, real_labels) == pytest.approx((0.5 + 3) / 2)


def test_one_class_without_labels():
    assert within_class_diversity(PAIR, None, TRIANGLE, torch.tensor([0, 0, 1])) == pytest.approx(0.5)
    assert within_class_diversity(PAIR, torch.tensor([0, 1]), TRIANGLE, None) == pytest.approx(0.5)


def test_classes_without_a_pair_are_left_out():
    reals = torch.cat([TRIANGLE, PAIR, torch.ones(2, 2)])
    real_labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    fakes = torch.cat([TRIANGLE, PAIR[:1], PAIR])
    fake_labels = torch.tensor([0, 0, 0, 1, 2, 2])  # one fake of class 1; the reals of class 2 are all the same
    assert within_class_diversity(fakes, fake_labels, reals, real_labels) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("rounding", [0.0, 1e-8, 1e-7, 1e-6])
def test_copies_that_differ_by_rounding_are_one_image(scale, rounding):
    """The features of equal images depend a little on the batch that they are computed in."""
    torch.manual_seed(0)
    reals, fakes, labels = scale * torch.randn(40, 8), scale * torch.randn(40, 8), torch.arange(40) // 20
    reals[20:] = reals[20] * (1 + rounding * torch.randn(20, 8))
    expected = within_class_diversity(fakes[:20], None, reals[:20], None)
    assert within_class_diversity(fakes, labels, reals, labels) == pytest.approx(expected)
    assert math.isnan(within_class_diversity(fakes[20:], None, reals[20:], None))
    assert within_class_diversity(reals[20:], None, reals[:20], None) == pytest.approx(0, abs=1e-5)


def test_nan_when_no_class_can_be_compared():
    assert math.isnan(within_class_diversity(PAIR, torch.tensor([0, 1]), PAIR, torch.tensor([0, 1])))


def test_identical_fakes_have_none_of_it():
    assert within_class_diversity(torch.ones(5, 2), None, TRIANGLE, None) == 0


def test_large_classes_are_thinned_out_evenly():
    # The distances of a class ordered by position: its first thousand alone would give a third of the spread.
    line = torch.linspace(0, 1, 3 * MAX_PER_CLASS)[:, None]
    assert within_class_diversity(line, None, torch.tensor([[0.0], [1 / 3]]), None) == pytest.approx(1.0, rel=2e-3)
