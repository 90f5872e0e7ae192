"""The pictures of a study's report, as SVG: curves of its arms, and maps of two settings."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smartfast.report.plots import COLORS, dress, to_svg
from smartfast.study.plan import Plan, option_text
from smartfast.study.results import Result, values_by_seed
from smartfast.study.values import point_name

_WIDTH, _HEIGHT = 5.2, 3.1  # inches of one plot
MOST_ARMS = len(COLORS)
"""That can be told apart in one plot."""


def draw_curves(plan: Plan, results: Sequence[Result], metric: str) -> bytes | None:
    """A metric against images and against seconds of training: each seed faint, the mean of an arm's seeds strong.

    Returns:
        None without evaluations, or with more arms than can be told apart.
    """
    if len(plan.arms) > MOST_ARMS or not any(metric in e.values for r in results for e in r.evaluations):
        return None
    drawing = Figure(figsize=(2 * _WIDTH, _HEIGHT), layout="constrained")
    by_images, by_seconds = drawing.subplots(1, 2, sharey=True)
    for arm, color in zip(plan.arms, COLORS, strict=False):
        own = [result for result in results if result.cell.arm == arm.name]
        points = [array for result in own if len(array := _points(result, metric))]
        for array in points:
            by_images.plot(array[:, 0], array[:, 2], color=color, alpha=0.25, linewidth=0.8)
            by_seconds.plot(array[:, 1], array[:, 2], color=color, alpha=0.25, linewidth=0.8)
        if points:
            ends = [_points(result, metric)[-1] for result in own if metric in result.values]
            mean = _mean(points, ends if plan.budget.seconds is not None else [])
            style = {"color": color, "linewidth": 1.6, "marker": "o", "markersize": 3, "label": arm.name}
            by_images.plot(mean[:, 0], mean[:, 2], **style)
            by_seconds.plot(mean[:, 1], mean[:, 2], **style)
    dress(by_images, metric, "real images seen (thousands)", metric)
    dress(by_seconds, "", "seconds of training", "")
    by_images.legend(fontsize=8, frameon=False)
    return to_svg(drawing)


def draw_map(plan: Plan, results: list[Result], metric: str) -> bytes:
    """The mean of a metric over the seeds, for each pair of values of the two swept settings."""
    (rows_name, rows), (columns_name, columns) = plan.sweep.items()
    means = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for k, column in enumerate(columns):
            values = values_by_seed(results, point_name({rows_name: row, columns_name: column}), metric)
            if values:
                means[i, k] = np.mean(list(values.values()))
    size = (1.6 + 0.9 * len(columns), 1.2 + 0.5 * len(rows))
    drawing = Figure(figsize=size, layout="constrained")
    axis: Axes = drawing.subplots()
    picture = axis.imshow(means, aspect="auto", cmap="viridis")
    axis.set_xticks(range(len(columns)), [option_text(value) for value in columns])
    axis.set_yticks(range(len(rows)), [option_text(value) for value in rows])
    for (i, k), mean in np.ndenumerate(means):
        text = "none" if np.isnan(mean) else f"{mean:.3g}"
        red, green, blue, _ = picture.cmap(picture.norm(mean))
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axis.text(k, i, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")
    dress(axis, metric, columns_name, rows_name)
    axis.grid(False)
    return to_svg(drawing)


def _points(result: Result, metric: str) -> np.ndarray:
    """kimg, seconds and value of every evaluation that has the metric, float64 [N, 3]."""
    rows = [(e.kimg, e.sec, e.values[metric]) for e in result.evaluations if metric in e.values]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _mean(points: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the seeds at the numbers of images that all were evaluated at, and of `ends` where they differ."""
    shared = sorted(set.intersection(*(set(array[:, 0]) for array in points)))
    rows = [[array[array[:, 0] == kimg][-1] for array in points] for kimg in shared]
    means = np.array(rows).reshape(-1, len(points), 3).mean(axis=1)
    differ = len({end[0] for end in ends}) > 1
    return np.concatenate([means, np.mean(ends, axis=0, keepdims=True)]) if differ else means
