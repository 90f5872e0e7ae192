"""The curves of a run as SVG pictures."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smartfast.families.base import Panel

Row = Mapping[str, float]

_COLUMNS = 3
_SMOOTH_FROM = 20  # points; fewer are drawn as they are
COLORS = ("#2563a8", "#c2571a", "#3d8b37", "#8a4fbe", "#b8860b", "#1b8a8f", "#a83254", "#5f6b7a")


SPEED_PANEL = Panel("Training speed", "images per second", {"images_per_sec": "speed"})


def draw_panels(panels: Sequence[Panel], rows: Sequence[Row], *, smoothed: bool) -> bytes | None:
    """An SVG with a plot for every panel that has data, over thousands of images; None when no panel has any.

    Args:
        rows: Rows of metrics.jsonl, each with `kimg`.
        smoothed: Draw a running mean over the values where there are many; else connect them.
    """
    shown = [panel for panel in panels if any(key in row for row in rows for key in panel.curves)]
    if not shown:
        return None
    columns = min(_COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    drawing = Figure(figsize=(3.9 * columns, 2.7 * lines), layout="constrained")
    axes = drawing.subplots(lines, columns, squeeze=False).flatten()
    for panel, axis in zip(shown, axes, strict=False):
        _draw(axis, panel, rows, smoothed)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return to_svg(drawing)


def to_svg(drawing: Figure) -> bytes:
    """A drawing as SVG, without the date."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def dress(axis: Axes, title: str, x_label: str, y_label: str) -> None:
    """The look of every plot: title, labels, grid, no frame."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential running mean, float64 [N] -> [N], with a half-life of 5 % of the values and without start-up bias."""
    decay = 0.5 ** (1 / max(1.0, 0.05 * len(values)))
    mean, weight, result = 0.0, 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + (1 - decay)
        result[i] = mean / weight
    return result


def _draw(axis: Axes, panel: Panel, rows: Sequence[Row], smoothed: bool) -> None:
    for (key, name), color in zip(panel.curves.items(), COLORS, strict=False):
        kimg, values = _finite_points(key, rows)
        if smoothed and len(values) >= _SMOOTH_FROM:
            axis.plot(kimg, values, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(kimg, smooth(values), color=color, linewidth=1.6, label=name)
        else:
            axis.plot(kimg, values, color=color, linewidth=1.4, marker="o", markersize=3, label=name)
    dress(axis, panel.title, "real images seen (thousands)", panel.unit)
    if len(panel.curves) > 1:
        axis.legend(fontsize=8, frameon=False)


def _finite_points(key: str, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["kimg"], row[key]) for row in rows if key in row]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(axis=1)]
    return array[:, 0], array[:, 1]
