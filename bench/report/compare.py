"""Two files of results side by side."""

from bench.base.limits import Limits
from bench.base.results import Result, Row
from bench.report.rows import milliseconds, number, speed_up
from bench.report.table import markdown_table

_SIZES = {"batch", "batch_gpu", "resolution", "frequency", "gpus", "order"}
_OUTCOMES = {"error", "is_noise", "limited_by", "stand_ins"}


def identity(row: Row) -> tuple[tuple[str, str], ...]:
    """What a row measures, whatever came out: its names, switches and sizes."""
    return tuple(
        (key, str(value))
        for key, value in sorted(row.items())
        if key in _SIZES or isinstance(value, str | bool) and key not in _OUTCOMES
    )


def compare(a: Result, b: Result) -> str:
    """Markdown: where the files come from, and each row that both have: times in ms and how much faster B is."""
    rows_b = {identity(row): row for row in b.rows}
    shared = [(row, rows_b[identity(row)]) for row in a.rows if identity(row) in rows_b]
    varying = _varying([row for row, _ in shared])
    table = markdown_table(
        [*varying, "A, ms", "B, ms", "B against A"],
        [
            [*(row.get(key) for key in varying), milliseconds(row), milliseconds(other), speed_up(row, other)]
            for row, other in shared
        ],
    )
    only = f"Only in A: {len(a.rows) - len(shared)} rows, only in B: {len(b.rows) - len(shared)}."
    return "\n\n".join([_about("A", a), _about("B", b), table, f"Medians with quantiles 0.2 to 0.8. {only}"])


def _varying(rows: list[Row]) -> list[str]:
    """Keys of the rows' identities that do not have one value throughout."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in identity(row):
            values.setdefault(key, set()).add(value)
    return [key for key, different in values.items() if len(different) > 1]


def _about(name: str, result: Result) -> str:
    versions = ", ".join(f"{key} {value}" for key, value in result.versions.items())
    about = (
        f"{name}: {result.path.name}, `{result.command}`, {result.device['name']}, commit {result.commit}, {versions}"
    )
    return f"{about}{_limits(result.limits)}"


def _limits(limits: Limits | None) -> str:
    """What the machine could do at that time: a difference may be the machine's."""
    if limits is None:
        return ""
    rates = ", ".join(f"{kind} {number(rate / 1e9)} GFLOP/s" for kind, rate in limits.flops_per_sec.items())
    return f"; limits: copy {number(limits.copy_bytes_per_sec / 1e9)} GB/s, {rates}"
