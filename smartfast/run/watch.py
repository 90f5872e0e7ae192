"""Signatures of failure, watched while a run trains: what the rows of metrics.jsonl tell before a run is wasted.

Each signature is a function of the tick rows so far, the newest last: nothing but the log is read, so that a resumed
run, or a replay (`python -m smartfast.run.watch RUN...`), judges as the run did. docs/signatures.md has the reasons.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from smartfast.core.run_log import read_rows

Row = Mapping[str, Any]

ANNOUNCED = "score/announced_share"
"""Key of a tick row: the score term's share of the work, as estimated before the run."""

PATIENCE = 3  # ticks in a row that show a signature
_KEPT = 64  # newest ticks that are looked at

SKIPPED_SHARE, SKIPPED_STEPS = 0.02, 3
OUT_OF_RANGE, RANGE, RANGE_FROM, OUT_TICKS = 10.0, 10, 4, 2
LARGEST_LOSS = 100.0
WEAK_SHARE = 1e-4
BLIND_ERROR, BLIND_FROM = 1.01, 8
COLLAPSED_SPREAD, FALLEN_SPREAD = 0.1, 0.25
CERTAIN_ACCURACY, CERTAIN_TICKS = 0.995, 5
DEAR_FACTOR, DEAR_MARGIN = 2.0, 0.05


class Finding(NamedTuple):
    """The figure that shows a signature, its bound, and a line: what was seen, and what to try."""

    value: float
    bound: float
    line: str


Signature = Callable[[Sequence[Row]], Finding | None]


def skipped_steps(ticks: Sequence[Row]) -> Finding | None:
    """Steps of a phase in this tick whose loss or gradient was not finite."""
    now, before = ticks[-1], ticks[-2] if len(ticks) > 1 else {}
    for phase in [name.removeprefix("skipped/") for name in now if name.startswith("skipped/")]:
        skipped = (_number(now, f"skipped/{phase}") or 0) - (_number(before, f"skipped/{phase}") or 0)
        bound = max(SKIPPED_STEPS, SKIPPED_SHARE * (_number(now, f"count/{phase}") or 0))
        if skipped >= bound:
            return Finding(
                skipped,
                bound,
                f"{skipped:.0f} steps of {phase} in this tick had a loss or a gradient that was not finite: "
                "try perf.precision fp32 or bf16, or lower learning rates",
            )
    return None


def instability(ticks: Sequence[Row]) -> Finding | None:
    """A loss or a gradient's length far above what it was, or an adversarial loss that no logits of use have."""
    for name in ticks[-1]:
        if not name.startswith(("loss/", "gradient/")):
            continue
        series = [abs(value) for value in _numbers(ticks, name)]
        before, now = series[1 : -2 * OUT_TICKS][-RANGE:], series[-OUT_TICKS:]
        bounds = [LARGEST_LOSS] if name.startswith("loss/") and name.endswith("_main") else []
        if len(before) >= RANGE_FROM:
            bounds.append(OUT_OF_RANGE * max(before))
        if len(now) == OUT_TICKS and bounds and min(now) > min(bounds):
            return Finding(
                now[-1],
                min(bounds),
                f"{name} is {now[-1]:.3g}, expected less than {min(bounds):.3g}: try half of optim.lr_g and "
                "optim.lr_d, four times loss.r1_gamma where there is one, or a larger optim.batch",
            )
    return None


def weak_term(ticks: Sequence[Row]) -> Finding | None:
    """The score term's gradient for the images against that of the whole loss."""
    shares = _ratios(ticks[-PATIENCE:], "image_gradient/score", "image_gradient/loss")
    if len(shares) < PATIENCE or max(shares) >= WEAK_SHARE:
        return None
    return Finding(
        shares[-1],
        WEAK_SHARE,
        f"the score term's gradient is {shares[-1]:.2g} of the generator's at the images, expected {WEAK_SHARE:g} or "
        "more: try a larger smart.weight, smart.distance eps where the scorer predicts x0, or no term at all",
    )


def blind_scorer(ticks: Sequence[Row]) -> Finding | None:
    """The scorer's error on the fakes, as one in eps, where finding no noise at all has 1."""
    errors = _numbers(ticks[-PATIENCE:], "score/error_in_eps")
    if len(ticks) < BLIND_FROM or len(errors) < PATIENCE or min(errors) < BLIND_ERROR:
        return None
    return Finding(
        errors[-1],
        BLIND_ERROR,
        f"the scorer's error on the fakes is {errors[-1]:.3g} times that of finding no noise: it knows nothing of such "
        "images at this noise; try more noise (smart.noise_to_signal), or a scorer of this data",
    )


def collapse(ticks: Sequence[Row]) -> Finding | None:
    """How much the fakes of a batch differ, within a class where there are classes, relative to the reals."""
    spreads = _ratios(ticks, "spread/fakes", "spread/reals")
    if len(spreads) < 2 * PATIENCE:
        return None
    before, now = spreads[:-PATIENCE], max(spreads[-PATIENCE:])
    best = max(fmean(before[i : i + PATIENCE]) for i in range(len(before) - PATIENCE + 1))
    bound = max(COLLAPSED_SPREAD, FALLEN_SPREAD * min(best, 1.0))
    if now >= bound:
        return None
    return Finding(
        now,
        bound,
        f"fakes differ from one another {now:.2g} times as much as reals do (best so far {best:.2g}), expected "
        f"{bound:.2g} or more: go back to a checkpoint from before; try a third of smart.weight, four times "
        "loss.r1_gamma, or a lower optim.lr_g",
    )


def certain_discriminator(ticks: Sequence[Row]) -> Finding | None:
    """The discriminator's share of right decisions at its bound, where it teaches the generator nothing more."""
    accuracies = _numbers(ticks[-CERTAIN_TICKS:], "discriminator/accuracy")
    if len(accuracies) < CERTAIN_TICKS or min(accuracies) < CERTAIN_ACCURACY:
        return None
    return Finding(
        accuracies[-1],
        CERTAIN_ACCURACY,
        f"the discriminator is right in {100 * accuracies[-1]:.4g} % of its decisions and teaches the generator "
        "little: try four times loss.r1_gamma, augment.mode ada, or a lower optim.lr_d",
    )


def dear_term(ticks: Sequence[Row]) -> Finding | None:
    """The score term's share of the time against the one announced; the first tick, which warms up, does not count."""
    shares = [share for row in ticks[1:][-PATIENCE:] if (share := _share_of_time(row)) is not None]
    announced = _number(ticks[-1], ANNOUNCED)
    if announced is None or len(shares) < PATIENCE:
        return None
    share, bound = median(shares), max(DEAR_FACTOR * announced, announced + DEAR_MARGIN)
    if share <= bound:
        return None
    return Finding(
        share,
        bound,
        f"the score term takes {100 * share:.0f} % of the time, announced were {100 * announced:.0f} %: try "
        "perf.compile, perf.cuda_graphs, smart.precision bf16, or a cheaper term (smart.frequency, "
        "smart.batch_fraction, smart.downscale)",
    )


SIGNATURES: dict[str, Signature] = {
    "skipped steps": skipped_steps,
    "instability": instability,
    "weak score term": weak_term,
    "blind scorer": blind_scorer,
    "collapse": collapse,
    "certain discriminator": certain_discriminator,
    "dear score term": dear_term,
}


class Watch:
    """Says each signature of a run once, when it first shows.

    Args:
        rows: Of the run's metrics.jsonl so far.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        rows = list(rows)
        self.ticks = [row for row in rows if row["kind"] == "tick"][-_KEPT:]
        self.told = {row.get("signature") for row in rows if row["kind"] == "warning"}

    def look(self, row: Row) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that follow a tick's own row: its new warnings."""
        self.ticks = [*self.ticks[1 - _KEPT :], row]
        found = {name: signature(self.ticks) for name, signature in SIGNATURES.items() if name not in self.told}
        seen = {name: finding for name, finding in found.items() if finding is not None}
        self.told |= seen.keys()
        return [{"kind": "warning", "kimg": row["kimg"], "signature": n, **f._asdict()} for n, f in seen.items()]


def warning_line(row: Row) -> str:
    """A warning's row as a line of the log."""
    return f"warning at {row['kimg']:g} kimg, {row['signature']}: {row['line']}"


def replay(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The warnings of a run that logged `rows`, whatever it said itself."""
    watch = Watch()
    return [warning for row in rows if row["kind"] == "tick" for warning in watch.look(row)]


def _share_of_time(row: Row) -> float | None:
    """What g_score takes beyond g_main, whose place it takes, of a tick's time; None where either did not run."""
    names = ("ms/g_score", "ms/g_main", "count/g_score", "sec_per_tick")
    scored, usual, count, sec = (_number(row, name) for name in names)
    if scored is None or usual is None or count is None or not sec:
        return None
    return (scored - usual) * count / 1000 / sec


def _number(row: Row, name: str) -> float | None:
    """A finite number of a row; where a mean was of nothing finite, a log has null."""
    value = row.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _numbers(ticks: Sequence[Row], name: str) -> list[float]:
    return [value for row in ticks if (value := _number(row, name)) is not None]


def _ratios(ticks: Sequence[Row], upper: str, lower: str) -> list[float]:
    pairs = [(_number(row, upper), _number(row, lower)) for row in ticks]
    return [a / b for a, b in pairs if a is not None and b]


if __name__ == "__main__":
    for run in sys.argv[1:]:
        found = replay(read_rows(Path(run) / "metrics.jsonl"))
        print(f"{run}: {len(found)} warnings", *map(warning_line, found), sep="\n  ")
