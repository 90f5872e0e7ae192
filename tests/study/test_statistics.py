"""The statistics of a study against enumerations and closed forms, and no claims where there is nothing to claim."""

import itertools

import numpy as np
import pytest
from scipy import stats

from smartfast.study.statistics import LEVEL, Interval, holm, paired_difference, smallest_p, summarise

LEFT = {0: 4.12, 1: 4.49, 2: 3.43, 3: 4.4, 4: 3.9}
RIGHT = {0: 5.34, 1: 5.77, 2: 5.47, 3: 4.1, 4: 5.0, 9: 1.0}


def test_a_summary_is_that_of_numpy_and_needs_values_for_what_it_says() -> None:
    values = list(LEFT.values())
    summary = summarise(values)
    assert summary.size == 5
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.deviation == pytest.approx(np.sqrt(np.sum((values - np.mean(values)) ** 2) / 4))
    assert min(values) < summary.interval.low < summary.mean < summary.interval.high < max(values)
    assert summarise([2.0])[2:] == (None, None)
    assert summarise([2.0, 3.0]).interval is None
    assert summarise([2.0] * 4).interval == Interval(2.0, 2.0)


def test_the_interval_is_about_that_of_student_where_that_holds() -> None:
    values = np.random.default_rng(5).normal(3, 2, 200)
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    np.testing.assert_allclose(summarise(values).interval, expected, rtol=0.02)


def test_the_interval_of_few_skewed_values_is_that_of_efrons_formulas() -> None:
    """BCa (Efron 1987, section 4) written out, with resamples of its own: bias from the share of resampled means below
    the mean, acceleration from the means without one value."""
    values = np.array([0.2, 0.4, 0.5, 0.9, 1.1, 1.6, 2.4, 5.1])
    resampled = np.random.default_rng(7).choice(values, (200_000, 8)).mean(axis=1)
    bias = stats.norm.ppf(np.mean(resampled < values.mean()))
    without_one = (values.sum() - values) / 7
    skew = without_one.mean() - without_one
    acceleration = np.sum(skew**3) / (6 * np.sum(skew**2) ** 1.5)
    shifted = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(resampled, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    np.testing.assert_allclose(summarise(values).interval, expected, rtol=0.03)


def test_p_values_are_near_those_of_students_paired_test_where_that_holds() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.normal(0.4, 1, 12), rng.normal(0, 1, 12)
    for alternative in ("two-sided", "less", "greater"):
        expected = stats.ttest_rel(left, right, alternative=alternative).pvalue
        pairs = dict(enumerate(left)), dict(enumerate(right))
        found = paired_difference(*pairs, alternative=alternative)
        assert found.p_value == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_p_values_are_those_of_all_sign_flips(factor: float) -> None:
    difference = np.array([LEFT[seed] - factor * RIGHT[seed] for seed in range(5)])
    means = np.array([np.mean(difference * signs) for signs in itertools.product((-1, 1), repeat=5)])
    less, greater = np.mean(means <= difference.mean() + 1e-12), np.mean(means >= difference.mean() - 1e-12)
    found = {a: paired_difference(LEFT, RIGHT, factor=factor, alternative=a) for a in ("less", "greater", "two-sided")}
    assert found["less"].p_value == pytest.approx(less)
    assert found["greater"].p_value == pytest.approx(greater)
    assert found["two-sided"].p_value == pytest.approx(min(1, 2 * min(less, greater)))
    assert (found["less"].size, found["less"].mean) == (5, pytest.approx(difference.mean()))


def test_the_smallest_p_value_is_that_of_pairs_which_all_agree() -> None:
    for count in range(2, 9):
        left, right = {seed: seed + 1.0 for seed in range(count)}, {seed: 0.0 for seed in range(count)}
        assert paired_difference(left, right).p_value == pytest.approx(smallest_p(count))
        one_sided = paired_difference(left, right, alternative="greater").p_value
        assert one_sided == pytest.approx(smallest_p(count, "greater"))
    assert paired_difference({1: 2.0}, {1: 1.0}).p_value == smallest_p(1) == 1
    assert paired_difference({1: 2.0}, {2: 1.0}) is None


def test_holms_adjustment_is_that_of_its_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_equal_arms_are_told_apart_in_one_of_twenty_studies_at_most() -> None:
    """Three arms of one distribution against a fourth, 60 studies of eight seeds: a claim in any of the rows counts.

    By chance 5 % of them have one at most; 10 or more of 60 would be one in a thousand such tests.
    """
    rng, claims = np.random.default_rng(0), 0
    for _ in range(60):
        arms = [dict(enumerate(row)) for row in rng.gamma(2, size=(4, 8)) + rng.normal(size=8)]
        p_values = [_p_value(arm, arms[0]) for arm in arms[1:]]
        claims += min(holm(p_values)) <= LEVEL
    assert claims < 10


def test_what_differs_is_found() -> None:
    rng = np.random.default_rng(0)
    left, right = (dict(enumerate(rng.normal(mean, 1, 10))) for mean in (0.0, 2.5))
    assert paired_difference(left, right).p_value <= LEVEL


@pytest.mark.slow
@pytest.mark.parametrize(("count", "expected"), [(5, 0.85), (10, 0.90), (40, 0.94)])
def test_the_intervals_cover_the_mean_as_often_as_the_report_says(count: int, expected: float) -> None:
    rng = np.random.default_rng(1)
    intervals = [summarise(rng.normal(size=count)).interval for _ in range(1000)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(expected, abs=0.035)  # three standard deviations of 1000 draws, at most


def _p_value(left: dict[int, float], right: dict[int, float]) -> float:
    difference = paired_difference(left, right)
    assert difference is not None
    return difference.p_value
