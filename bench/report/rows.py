"""Rows of results as a report needs them: the newest ones by device and suite, and numbers as text."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.base.limits import Limits
from bench.base.results import Result, Row
from bench.base.timing import Timing, differs

PREDICTIONS = "roofline"
"""The suite that measures nothing."""


@dataclass
class Campaign:
    """What was measured on one device.

    rows: By suite. failures: Errors of whole parts of a suite, by suite: what was to be measured there is not known.
    results: The files that they come from, oldest first.
    """

    device: Mapping[str, Any]
    rows: dict[str, list[Row]] = field(default_factory=dict)
    failures: dict[str, list[Row]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def limits_of(self, suite: str) -> Limits | None:
        """The machine's limits as the newest file of a suite measured them."""
        return next((result.limits for result in reversed(self.results) if result.suite == suite), None)

    @property
    def is_gpu(self) -> bool:
        return self.device["type"] == "cuda"


def campaigns(results: Iterable[Result]) -> list[Campaign]:
    """Measurements by device, GPUs first; trials (--quick) and predictions are left out.

    Of each suite and configuration the rows come from the newest file that has any, of a run to its end where there is
    one.
    """
    found: dict[str, Campaign] = {}
    for result in results:
        if not result.quick and result.suite != PREDICTIONS:
            found.setdefault(result.device["name"], Campaign(result.device)).results.append(result)
    for campaign in found.values():
        campaign.results, rows = _newest(campaign.results)
        campaign.rows = {suite: [row for row in each if _names_a_way(row)] for suite, each in rows.items()}
        campaign.failures = {suite: [row for row in each if not _names_a_way(row)] for suite, each in rows.items()}
    return sorted(found.values(), key=lambda campaign: not campaign.is_gpu)


def _names_a_way(row: Row) -> bool:
    return "provider" in row or "step" in row


def predictions(results: Iterable[Result]) -> tuple[list[Result], list[Row]]:
    """Files and rows of the newest predictions for each configuration."""
    files, rows = _newest([result for result in results if result.suite == PREDICTIONS and not result.quick])
    return files, rows.get(PREDICTIONS, [])


def _newest(results: Sequence[Result]) -> tuple[list[Result], dict[str, list[Row]]]:
    used: list[Result] = []
    rows: dict[str, list[Row]] = {}
    seen: set[tuple[str, Hashable]] = set()
    for result in sorted(results, key=lambda result: (result.stopped is None, result.started), reverse=True):
        configs = {row.get("config") for row in result.rows}
        new = [row for row in result.rows if (result.suite, row.get("config")) not in seen]
        seen |= {(result.suite, config) for config in configs}
        if new:
            used.append(result)
            rows.setdefault(result.suite, []).extend(new)
    return sorted(used, key=lambda result: result.started), rows


def group(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some keys, in the order in which they first occur."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def timing_of(row: Row) -> Timing | None:
    """A row's time; None where it has none."""
    if row.get("median_sec") is None:
        return None
    keys = ("median_sec", "p20_sec", "p80_sec", "repeats", "calls", "peak_bytes")
    return Timing(*(row.get(key) or 0 for key in keys))


def milliseconds(row: Row | None) -> str | None:
    """`1.23 (1.20 to 1.30)`: median and spread; `error` where there is no time, None without a row."""
    if row is None:
        return None
    timing = timing_of(row)
    if timing is None:
        return "error"
    return f"{_ms(timing.median_sec)} ({_ms(timing.p20_sec)} to {_ms(timing.p80_sec)})"


def cost(row: Row | None) -> str | None:
    """`1.23 (1.20 to 1.30)`: s/kimg and its spread; `error` where there is no time, None without a row."""
    if row is None:
        return None
    timing = timing_of(row)
    if timing is None or row.get("sec_per_kimg") is None:
        return "error"
    scale = row["sec_per_kimg"] / timing.median_sec
    median, low, high = (number(scale * sec) for sec in (timing.median_sec, timing.p20_sec, timing.p80_sec))
    return f"{median} ({low} to {high})"


def row_differs(a: Row, b: Row) -> bool:
    """Whether two rows' times differ by more than their spread; False where one has no time."""
    times = timing_of(a), timing_of(b)
    return times[0] is not None and times[1] is not None and differs(*times)  # type: ignore[arg-type]


def speed_up(slow: Row | None, fast: Row | None) -> str | None:
    """`1.52x`, `noise (1.02x)` where the spreads overlap, None where a time is missing."""
    if slow is None or fast is None or not (timing_of(slow) and timing_of(fast)):
        return None
    ratio = f"{slow['median_sec'] / fast['median_sec']:.2f}x"
    return ratio if row_differs(slow, fast) else f"noise ({ratio})"


def fastest(rows: Iterable[Row]) -> Row | None:
    """The row with the least median; None where no row has a time."""
    return min((row for row in rows if timing_of(row)), key=lambda row: row["median_sec"], default=None)


def share_of_limit(row: Row | None) -> str | None:
    """`61 %`: how much of its time the machine's limits account for."""
    if row is None or not row.get("floor_sec") or not row.get("median_sec"):
        return None
    return percent(row["floor_sec"] / row["median_sec"])


def percent(share: float | None) -> str | None:
    """`12 %`; small shares with more digits."""
    if share is None:
        return None
    return f"{100 * share:.0f} %" if abs(share) >= 0.1 else f"{100 * share:.2g} %"


def number(value: float | None, unit: str = "") -> str | None:
    """Three digits, thousands grouped."""
    if value is None:
        return None
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def mebibytes(value: float | None) -> str | None:
    """Bytes as MiB."""
    return None if value is None else number(value / 2**20)


def _ms(sec: float) -> str:
    return number(1e3 * sec) or ""
