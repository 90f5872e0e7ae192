"""Where the time of a run went, phase by phase, from its tick rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class PhaseTime(NamedTuple):
    """What a phase cost: ms per run, runs per thousand images, seconds per thousand images."""

    phase: str
    ms_per_run: float | None
    runs_per_kimg: float | None
    sec_per_kimg: float


def phase_times(ticks: Sequence[Row], phases: Mapping[str, str | None]) -> list[PhaseTime]:
    """Where the time went, phase by phase, then the rest; the sum of sec_per_kimg is that of the ticks.

    Compiling is in neither. Where a phase takes another's place, its run is a run of the other and what it adds, which
    gets a row of its own. Without any run of the other there is nothing to subtract.

    Args:
        ticks: Tick rows of metrics.jsonl, one at least.
        phases: The phase that each one takes the place of, None = of none; others of the ticks come behind them.
    """
    ticks = settled(ticks)
    kimg = sum(row["sec_per_tick"] / row["sec_per_kimg"] for row in ticks)
    timed = sorted({key.removeprefix("ms/") for row in ticks for key in row if key.startswith("ms/")})
    order = [*phases, *(name for name in timed if name not in phases)]
    runs = {phase: sum(row.get(f"count/{phase}", 0) for row in ticks) for phase in order}
    ms = {
        phase: sum(row.get(f"ms/{phase}", 0.0) * row.get(f"count/{phase}", 0) for row in ticks) / count
        for phase, count in runs.items()
        if count
    }
    titles = {phase: phase for phase in ms}
    for phase, replaced in phases.items():
        if phase in ms and replaced in ms and replaced is not None:
            titles[phase] = f"{phase}, beyond {replaced}"
            ms[phase] -= ms[replaced]
            runs[replaced] += runs[phase]
    times = [PhaseTime(titles[p], ms[p], runs[p] / kimg, ms[p] * runs[p] / kimg / 1000) for p in ms]
    total = sum(row["sec_per_tick"] for row in ticks) / kimg
    return [*times, PhaseTime("everything else", None, None, total - sum(time.sec_per_kimg for time in times))]


def cost_rows(times: Sequence[PhaseTime]) -> list[list[Any]]:
    """Each phase as its name, its numbers as text, and its share of the whole; the total comes last."""
    total = sum(time.sec_per_kimg for time in times)
    rows: list[list[Any]] = [
        [
            time.phase,
            "" if time.ms_per_run is None else f"{time.ms_per_run:.2f}",
            "" if time.runs_per_kimg is None else f"{time.runs_per_kimg:.2f}",
            f"{time.sec_per_kimg:.3f}",
            time.sec_per_kimg / total,
        ]
        for time in times
    ]
    return [*rows, ["total", "", "", f"{total:.3f}", 1.0]]


def settled(ticks: Sequence[Row]) -> Sequence[Row]:
    """The ticks without the first, which compiles and warms up, when there are others."""
    return ticks[1:] or ticks
