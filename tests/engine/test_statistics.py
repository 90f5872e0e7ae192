"""Means of a tick, and what a skipped step does to them."""

import math

import pytest
import torch

from smartfast.engine.statistics import Statistics


def test_one_value_that_is_not_finite_does_not_hide_the_others() -> None:
    statistics = Statistics()
    for value in (1.0, math.nan, math.inf, 3.0):
        statistics.add({"a": torch.tensor(value), "b": torch.tensor(10.0)})
    assert statistics.read() == {"a": 2.0, "b": 10.0}


def test_a_statistic_that_was_never_finite_is_said_to_be_so() -> None:
    statistics = Statistics()
    statistics.add({"a": torch.tensor(math.nan), "b": torch.tensor(1.0)})
    found = statistics.read()
    assert math.isnan(found["a"]) and found["b"] == 1.0


def test_statistics_are_means_since_the_last_read() -> None:
    statistics = Statistics()
    for value in (1.0, 2.0, 6.0):
        statistics.add({"a": torch.tensor(value)})
    statistics.add({"b": torch.tensor(5.0)})
    assert statistics.read() == {"a": 3.0, "b": 5.0}
    assert statistics.read() == {}
    statistics.add({"b": torch.tensor(7.0)})
    assert statistics.read() == {"b": 7.0}


@pytest.mark.parametrize("both_first", [True, False])
def test_a_statistic_of_two_phases_is_the_mean_over_both(both_first: bool) -> None:
    rows = [{"g": torch.tensor(1.0), "score": torch.tensor(4.0)}, *[{"g": torch.tensor(9.0)}] * 7]
    statistics = Statistics()
    for row in rows if both_first else reversed(rows):
        statistics.add(row)
    assert statistics.read() == {"g": 8.0, "score": 4.0}
