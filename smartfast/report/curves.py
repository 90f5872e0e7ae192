"""The curves of a run, as numbers for the page that draws them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from smartfast.families.base import Panel

Row = Mapping[str, Any]
Point = tuple[float, float | None]

SPEED_PANEL = Panel("Training speed", "images per second", {"images_per_sec": "speed"})
_MEMORY = ("Memory", "GiB", {"cpu_mem_gib": "main memory", "gpu_mem_gib": "GPU, peak"})
_OTHERS_TITLES = {"ms": ("Time of a phase", "ms per run")}
_LEFT_OUT = ("count", "skipped", "skipped_in_a_row")
MOST_POINTS = 2000
"""Of a curve on the page; of longer ones the least and the greatest value of each stretch are kept, and the means."""


def drawn(panels: Sequence[Panel], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The panels that have data, for JSON: title, unit and curves, each with a name, `kimg` and `values`.

    Values that are not finite are None, a gap in the curve. A longer curve than MOST_POINTS has `means` too: their
    `kimg` and `values`.

    Args:
        panels: What to show of the rows.
        rows: Rows of metrics.jsonl, each with `kimg`.
    """
    result = []
    for panel in panels:
        curves = [{"name": name, **_points(key, rows)} for key, name in panel.curves.items()]
        curves = [curve for curve in curves if any(value is not None for value in curve["values"])]
        if curves:
            result.append({"title": panel.title, "unit": panel.unit, "curves": curves})
    return result


def other_panels(shown: Sequence[Panel], rows: Sequence[Row]) -> list[Panel]:
    """Panels of what else the rows hold by the name of a group, as one of all `gradient/...`, and of memory."""
    known = {key for panel in shown for key in panel.curves}
    groups: dict[str, dict[str, str]] = {}
    for key in sorted({key for row in rows for key in row if "/" in key and key not in known}):
        group, _, name = key.partition("/")
        if group not in _LEFT_OUT:
            groups.setdefault(group, {})[key] = name
    others = [Panel(*_title(group, curves), curves) for group, curves in groups.items()]
    title, unit, memory = _MEMORY
    used = {key: name for key, name in memory.items() if any(row.get(key) for row in rows)}  # 0 without a GPU
    return [*others, Panel(title, unit, used)]


def _title(group: str, curves: Mapping[str, str]) -> tuple[str, str]:
    """Title and unit; a lone curve is called by its key, for it has no legend."""
    return _OTHERS_TITLES.get(group, (next(iter(curves)) if len(curves) == 1 else group, ""))


def _points(key: str, rows: Sequence[Row]) -> dict[str, Any]:
    points = [(float(row["kimg"]), _finite(row[key])) for row in rows if key in row]
    if len(points) <= MOST_POINTS:
        return _written(points)
    stretch = math.ceil(2 * len(points) / MOST_POINTS)
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    extremes = [point for part in parts for point in _extremes(part)]
    if extremes[-1] != points[-1]:
        extremes.append(points[-1])
    return {**_written(extremes), "means": _written([_mean(part) for part in parts])}


def _written(points: Sequence[Point]) -> dict[str, list[float | None]]:
    return {"kimg": [_short(kimg) for kimg, _ in points], "values": [_short(value) for _, value in points]}


def _extremes(part: Sequence[Point]) -> list[Point]:
    finite = [i for i, (_, value) in enumerate(part) if value is not None] or [0]
    ends = {min(finite, key=lambda i: part[i][1] or 0.0), max(finite, key=lambda i: part[i][1] or 0.0)}
    return [part[i] for i in sorted(ends)]


def _mean(part: Sequence[Point]) -> Point:
    finite = [value for _, value in part if value is not None]
    return statistics.fmean(kimg for kimg, _ in part), statistics.fmean(finite) if finite else None


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def _short(value: float | None) -> float | None:
    """Six digits, which are more than a screen shows."""
    return None if value is None else float(f"{value:.6g}")
