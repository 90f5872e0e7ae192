"""The metrics of a run: the first, best and last values, and a panel of each measure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from smartfast.families.base import Panel
from smartfast.metrics.names import Metric, values_of_row
from smartfast.report.curves import drawn


class Measure(NamedTuple):
    """title and unit: of its plot. meaning: what is good, in words."""

    title: str
    unit: str
    meaning: str


_LESS, _MORE = "lower is better", "higher is better"
_DISTANCE = ("squared feature distance", _LESS)
_FRACTIONS = ("Precision and recall", "fraction", _MORE)
_MEASURES = {
    "fd": Measure("Fréchet distance", *_DISTANCE),
    "kd": Measure("Kernel distance", *_DISTANCE),
    "cs": Measure("Classifier score", "effective classes", _MORE),
    "precision": Measure(*_FRACTIONS),
    "recall": Measure(*_FRACTIONS),
    "diversity": Measure("Within-class diversity", "ratio to real images", "1 = like the data"),
    "off": Measure("Share of samples off the data", "fraction", _LESS),
    "distance": Measure("Mean distance to the data", "length", _LESS),
    "wasserstein": Measure("Wasserstein distance", "length", _LESS),
    "covered": Measure("Share of the data reached", "fraction", _MORE),
}
_TITLES = {"fid": "Fréchet distance (FID)", "kid": "Kernel distance (KID)", "isc": "Inception score"}


def is_measure(measure: str) -> bool:
    """Whether it is known what is good in a measure."""
    return measure in _MEASURES


def meaning(measure: str) -> str:
    """What is good in a measure such as fd, in a few words."""
    return _MEASURES[measure].meaning


def quality(evaluations: Sequence[Mapping[str, Any]], features: str) -> dict[str, Any]:
    """The metrics of a run for JSON: `header` and `rows` of a table of text, and `panels` as `curves.drawn` makes them.

    Args:
        evaluations: The rows of kind `metrics` of metrics.jsonl.
        features: Those of the run's configuration.
    """
    rows = [(row["kimg"], values_of_row(row, features)) for row in evaluations]
    found = dict.fromkeys(metric for _, values in rows for metric in values)
    order = sorted((m for m in found if m.measure in _MEASURES), key=lambda m: list(_MEASURES).index(m.measure))
    cells = [_cells(metric, [(values[metric], kimg) for kimg, values in rows if metric in values]) for metric in order]
    named = [{"kimg": kimg, **{str(metric): value for metric, value in values.items()}} for kimg, values in rows]
    return {"header": ["metric", "first", "best", "last"], "rows": cells, "panels": drawn(_panels(order), named)}


def _cells(metric: Metric, values: Sequence[tuple[float, float]]) -> list[str]:
    best, best_kimg = min(values, key=lambda point: metric.badness(point[0]))
    return [
        f"{metric} ({meaning(metric.measure)})",
        f"{values[0][0]:.4g}",
        f"{best:.4g} (at {best_kimg:g} kimg)",
        f"{values[-1][0]:.4g}",
    ]


def _panels(metrics: Sequence[Metric]) -> list[Panel]:
    """A plot of each measure and its features; precision and recall share theirs."""
    panels: dict[str, Panel] = {}
    for metric in metrics:
        measure, name = _MEASURES[metric.measure], str(metric)
        title = _TITLES.get(name, f"{measure.title}, {metric.features} features")
        panel = panels.setdefault(title, Panel(title, f"{measure.unit}, {measure.meaning}", {}))
        panel.curves[name] = metric.measure
    return list(panels.values())
