"""Every metric's name carries the features that it is computed in."""

from itertools import product

import pytest

from smartfast.metrics.names import MEASURES, Metric, metric_of, values_of_row

ALL = [measure for measures in MEASURES.values() for measure in measures]


@pytest.mark.parametrize(
    ("measure", "features", "name"),
    [
        ("fd", "inception", "fid"),
        ("kd", "inception", "kid"),
        ("cs", "inception", "isc"),
        ("precision", "inception", "precision_inception"),
        ("fd", "digits", "fd_digits"),
        ("kd", "digits", "kd_digits"),
        ("cs", "digits", "cs_digits"),
        ("recall", "digits", "recall_digits"),
        ("diversity", "digits", "diversity_digits"),
        ("fd", "dinov2", "fd_dinov2"),
    ],
)
def test_names(measure: str, features: str, name: str) -> None:
    assert str(Metric(measure, features)) == name
    assert metric_of(name) == (measure, features)


def test_only_inception_has_a_name_without_its_features() -> None:
    names = {str(Metric(measure, features)) for measure, features in product(ALL, ["inception", "digits", "clip"])}
    assert len(names) == 3 * len(ALL)
    assert {name for name in names if "_" not in name} == {"fid", "kid", "isc"}


def test_rows_with_and_without_their_features() -> None:
    old = {"kind": "metrics", "kimg": 2.0, "metric/fid": 4.0, "metric/recall": 0.2, "metric/seconds": 3.0}
    assert values_of_row(old, "digits") == {("fd", "digits"): 4.0, ("recall", "digits"): 0.2}
    assert values_of_row(old, "inception") == {("fd", "inception"): 4.0, ("recall", "inception"): 0.2}
    new = {"kind": "metrics", "kimg": 2.0, "features": "inception", "metric/fid": 4.0, "metric/kid": None}
    assert values_of_row(new, "digits") == {("fd", "inception"): 4.0}, "the run's features are others by now"
