"""Means of a tick, and what a skipped step does to them."""

import math

import torch

from smartfast.engine.phase import Statistics


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
