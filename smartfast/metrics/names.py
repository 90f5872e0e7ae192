"""What a metric is called: what it measures, and the features that it measures it in.

Numbers of different features must not be compared, so the name carries the features: `fd_digits` is the Fréchet
distance in those of the bundled digit classifier. Three names of the literature mean InceptionV3 as torch-fidelity
computes it, and nothing else is called so: fid, kid, isc.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from smartfast.config.schema import MetricsConfig
from smartfast.config.spaces import resizing_of

MEASURES = {
    "fid": ("fd",),
    "kid": ("kd",),
    "isc": ("cs",),
    "prc": ("precision", "recall"),
    "diversity": ("diversity",),
    "manifold": ("off", "distance", "wasserstein", "covered"),
}
"""What each choice of `metrics.names` measures: the Fréchet and the kernel distance, the classifier score, ..."""

_HIGHER_IS_BETTER = {"cs", "precision", "recall", "covered"}
_IN_THE_LITERATURE = {"fd_inception": "fid", "kd_inception": "kid", "cs_inception": "isc"}
_WITHOUT_FEATURES = {"fid": "fd", "kid": "kd", "isc": "cs", **{m: m for m in ("precision", "recall", "diversity")}}


class Metric(NamedTuple):
    """A measure such as fd, and the features such as inception that it is of; str() is its name."""

    measure: str
    features: str

    def badness(self, value: float) -> float:
        """A key of which the least is the best value of it."""
        if self.measure == "diversity":
            return abs(value - 1)  # 1 is that of the data
        return -value if self.measure in _HIGHER_IS_BETTER else value

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value of it is better than another; nan is better than none."""
        return self.badness(value) < self.badness(than)

    def __str__(self) -> str:
        name = f"{self.measure}_{self.features}"
        return _IN_THE_LITERATURE.get(name, name)


def computed_metrics(names: Sequence[str], features: str) -> dict[str, Metric]:
    """What choices of `metrics.names` compute in some features, by name.

    A choice that is one measure, such as kid, is another name of it.
    """
    of_choice = {name: [Metric(measure, features) for measure in MEASURES[name]] for name in names}
    short = {name: metrics[0] for name, metrics in of_choice.items() if len(metrics) == 1}
    return short | {str(metric): metric for metrics in of_choice.values() for metric in metrics}


def metric_of(name: str) -> Metric:
    """The metric with a name that `Metric` gives."""
    full = next((full for full, known in _IN_THE_LITERATURE.items() if known == name), name)
    measure, _, features = full.partition("_")
    return Metric(measure, features)


def values_of_row(row: Mapping[str, Any], features: str) -> dict[Metric, Any]:
    """What a row of metrics.jsonl says of each metric; what is no number, such as null, is left out.

    Args:
        row: Its `metric/<name>` count, but for `metric/seconds`.
        features: Those of the run, for rows without `features`: they are older than the names above.
    """
    named = {key.removeprefix("metric/"): value for key, value in row.items() if key.startswith("metric/")}
    found = {name: value for name, value in named.items() if name != "seconds" and isinstance(value, int | float)}
    if "features" in row:
        return {metric_of(name): value for name, value in found.items()}
    return {Metric(_WITHOUT_FEATURES.get(name, name), features): value for name, value in found.items()}


def provenance(config: MetricsConfig, dataset: str) -> dict[str, Any]:
    """What numbers depend on beside the images: feature space, sample count, resizing, and what they are compared with.

    dataset: Name of the run's images.
    """
    reference = dataset if config.reference is None else f"{dataset}; the Fréchet distance: {config.reference}"
    return {
        "features": config.features,
        "samples": config.samples,
        "resizing": resizing_of(config.features),
        "reference": reference,
    }
