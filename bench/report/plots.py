"""The report's pictures, from rows of results: phases, the waterfall of the score term, and the roofline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.base.limits import Limits
from bench.base.results import Row
from bench.report.rows import group, timing_of

_COLORS = ("#2563a8", "#c2571a", "#3c8c4a", "#8a4fa3", "#8c6d1f", "#b03a5b")
_FLOOR = "#111111"
_COLUMNS = 2
_DPI = 120


def draw_phases(rows: Sequence[Row], path: Path) -> None:
    """Bars of ms per run of a phase, by provider, a panel for each configuration and precision."""
    panels = group([row for row in rows if timing_of(row)], "config", "dtype")
    figure, axes = _panels(len(panels), width=6.4, height=3.4)
    for ax, ((config, dtype), members) in zip(axes, panels.items(), strict=True):
        phases, providers = list(group(members, "phase")), list(group(members, "provider"))
        for place, (provider,) in enumerate(providers):
            mine = [row for row in members if row["provider"] == provider]
            x = [
                phases.index((row["phase"],)) + (place - (len(providers) - 1) / 2) * 0.8 / len(providers)
                for row in mine
            ]
            _bars(ax, x, mine, 0.8 / len(providers), _COLORS[place % len(_COLORS)], str(provider))
        ax.set_xticks(range(len(phases)), [phase for (phase,) in phases])
        ax.set_ylabel("ms per run; black: floor")
        ax.set_title(f"{config}, {dtype}, batch {members[0].get('batch')}", fontsize=10)
        ax.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_waterfall(rows: Sequence[Row], path: Path) -> None:
    """Seconds per kimg of the score term after every step, the recipe on top, a panel for each configuration."""
    panels = group([row for row in rows if row.get("kind") == "waterfall" and timing_of(row)], "config")
    figure, axes = _panels(len(panels), width=6.4, height=3.4)
    for ax, ((config,), members) in zip(axes, panels.items(), strict=True):
        steps = sorted(members, key=lambda row: row["order"])
        costs = [row["sec_per_kimg"] for row in steps]
        per_call = [row["sec_per_kimg"] / row["median_sec"] for row in steps]
        spread = [
            [(row["median_sec"] - row["p20_sec"]) * factor for row, factor in zip(steps, per_call, strict=True)],
            [(row["p80_sec"] - row["median_sec"]) * factor for row, factor in zip(steps, per_call, strict=True)],
        ]
        places = range(len(steps))
        ax.barh(places, costs, xerr=spread, color=_COLORS[0], height=0.7, ecolor="#888888")
        _floor_ticks(ax, [(row.get("floor_sec"), factor) for row, factor in zip(steps, per_call, strict=True)])
        ends = [cost + above for cost, above in zip(costs, spread[1], strict=True)]
        for place, (cost, end) in enumerate(zip(costs, ends, strict=True)):
            text = f"{cost:.3g}  ({costs[0] / cost:.2g}x)"
            ax.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(places, [row["step"] for row in steps], fontsize=8)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.3 * max(ends))
        ax.set_xlabel(f"s/kimg at frequency {steps[0].get('frequency')}; black: floor")
        ax.set_title(f"score term, {config}, {steps[0].get('resolution')} pixels", fontsize=10)
    _save(figure, path)


def draw_roofline(rows: Sequence[Row], limits: Limits, path: Path) -> None:
    """Every timed call on the machine's roofline, and the bandwidth of those without matrix products."""
    timed = [row for row in rows if timing_of(row) and row.get("bytes")]
    figure, (left, right) = _panels(2, width=6.4, height=4.4)
    providers = [provider for (provider,) in group(timed, "provider")]
    for place, provider in enumerate(providers):
        style: dict[str, Any] = dict(
            s=14, alpha=0.7, color=_COLORS[place % len(_COLORS)], label=str(provider), linewidths=0
        )
        mine = [row for row in timed if row["provider"] == provider]
        if products := [row for row in mine if row.get("flops")]:
            left.scatter(
                [row["flops"] / row["bytes"] for row in products],
                [row["flops"] / row["median_sec"] / 1e9 for row in products],
                **style,
            )
        if moves := [row for row in mine if not row.get("flops")]:
            right.scatter(
                [row["bytes"] / 2**20 for row in moves],
                [row["bytes"] / row["median_sec"] / 1e9 for row in moves],
                **style,
            )
    _ceilings(left, limits, [row for row in timed if row.get("flops")])
    right.axhline(limits.copy_bytes_per_sec / 1e9, color=_FLOOR, linewidth=1)
    right.set(xlabel="MiB moved", ylabel="GB/s", title="no matrix products; line: copy")
    left.set(xlabel="FLOP per byte", ylabel="GFLOP/s", title="matrix products; lines: limits")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _ceilings(ax: Axes, limits: Limits, rows: Sequence[Row]) -> None:
    """The limits of the kinds of matrix product that occur; float32 may have run as tf32."""
    intensities = [row["flops"] / row["bytes"] for row in rows]
    kinds = {row["dtype"] for row in rows}
    kinds |= {"tf32"} & limits.flops_per_sec.keys() if "fp32" in kinds else set()
    x = np.geomspace(min(intensities, default=1.0) / 2, max(intensities, default=1e3) * 2)
    for kind in sorted(kinds):
        y = np.minimum(limits.flops_per_sec[kind], x * limits.copy_bytes_per_sec) / 1e9
        ax.plot(x, y, color=_FLOOR, linewidth=1)
        ax.annotate(kind, (x[-1], y[-1]), fontsize=8, va="bottom", ha="right")


def _bars(ax: Axes, x: Sequence[float], rows: Sequence[Row], width: float, color: str, label: str) -> None:
    """Medians with whiskers from quantile 0.2 to 0.8, and the floor as a black line."""
    medians = [1e3 * row["median_sec"] for row in rows]
    spread = [
        [1e3 * (row["median_sec"] - row["p20_sec"]) for row in rows],
        [1e3 * (row["p80_sec"] - row["median_sec"]) for row in rows],
    ]
    ax.bar(x, medians, width, yerr=spread, color=color, label=label, ecolor="#888888")
    for place, row in zip(x, rows, strict=True):
        if row.get("floor_sec"):
            ax.hlines(1e3 * row["floor_sec"], place - width / 2, place + width / 2, color=_FLOOR, linewidth=1.5)


def _floor_ticks(ax: Axes, floors: Sequence[tuple[float | None, float]]) -> None:
    for place, (floor_sec, factor) in enumerate(floors):
        if floor_sec:
            ax.vlines(floor_sec * factor, place - 0.35, place + 0.35, color=_FLOOR, linewidth=1.5)


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, max(count, 1))
    lines = max(-(-count // columns), 1)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(np.ravel(figure.subplots(lines, columns, squeeze=False)))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
