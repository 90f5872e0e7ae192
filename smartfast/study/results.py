"""What the run folders of a study say: for each cell its state, the values of the metrics, and the way there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from smartfast.core.run_log import read_rows
from smartfast.core.run_pictures import pictures_of
from smartfast.metrics.names import metric_of, values_of_row
from smartfast.study.cell import Record, State, read_record, state_of, trained_sec
from smartfast.study.plan import Cell, Plan, folder_of


class Evaluation(NamedTuple):
    """kimg and sec: how long the training was by then. values: by the study's names of its metrics."""

    kimg: float
    sec: float
    values: dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a cell's folder says.

    Attributes:
        record: Of the study, None where the cell was never started.
        sec: Of training, without evaluations, snapshots and compiling.
        evaluations: In their order.
        sheet: The newest sample sheet, and its thousands of images.
    """

    cell: Cell
    state: State
    record: Record | None
    sec: float
    evaluations: tuple[Evaluation, ...]
    sheet: tuple[float, Path] | None

    @property
    def values(self) -> dict[str, float]:
        """The metrics at the end of the budget; empty before it."""
        return self.evaluations[-1].values if self.state == "complete" and self.evaluations else {}


def read_results(plan: Plan, out: Path) -> list[Result]:
    """Every cell of a study, in their order."""
    return [_result(plan, cell, out) for cell in plan.cells]


def values_by_seed(results: list[Result], arm: str, metric: str) -> dict[int, float]:
    """The values of a metric that the complete cells of an arm have, by seed."""
    return {r.cell.seed: r.values[metric] for r in results if r.cell.arm == arm and metric in r.values}


def _result(plan: Plan, cell: Cell, out: Path) -> Result:
    folder = folder_of(cell, out)
    rows = read_rows(folder / "metrics.jsonl")
    evaluations = tuple(_evaluation(plan, row, rows) for row in rows if row["kind"] == "metrics")
    state = state_of(folder, plan.options(cell, out), plan.budget.seconds)
    sheet = max(pictures_of(folder, "fakes"), default=None)
    return Result(cell, state, read_record(folder), trained_sec(rows), evaluations, sheet)


def _evaluation(plan: Plan, row: dict[str, Any], rows: list[dict[str, Any]]) -> Evaluation:
    found = values_of_row(row, "")
    values = {}
    for name in plan.metrics:
        wanted = metric_of(name)
        for metric, value in found.items():
            if metric.measure == wanted.measure and wanted.features in ("", metric.features):
                values[name] = float(value)
    return Evaluation(row["kimg"], trained_sec([r for r in rows if r["kimg"] <= row["kimg"]]), values)
