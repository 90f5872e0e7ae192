"""What `smartfast study` adds to a training: cells whose training does nothing, against the same processes alone.

    python -m bench.proofs.study_cells

Cells run one after the other, on SQLite in a temporary folder, and so do the processes that are started directly; what
a cell takes longer is the study's: claiming, records, looking whether the process has ended. Writes
bench/results/study_cells.md and .json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.study.claims import Claims
from smartfast.study.plan import Plan, load_plan
from smartfast.study.runner import Worker

COMMAND = "python -m bench.proofs.study_cells"
NOTHING = (sys.executable, "-S", "-c", "")
STUDY = "{{base: digits, arms: {{plain: {{}}}}, seeds: 0-{last}, budget: {{kimg: 1}}, metrics: [fd_digits]}}"


def measure(cells: int) -> dict[str, float]:
    """Seconds of a cell, of its process alone, and of the difference."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nothing.yaml"
        path.write_text(STUDY.format(last=cells - 1))
        plan = load_plan(path)
        cell_sec = _study_sec(plan, Path(folder)) / cells
    begin = time.perf_counter()
    for _ in range(cells):
        subprocess.run(NOTHING, check=True)
    alone_sec = (time.perf_counter() - begin) / cells
    return {"cells": cells, "cell_sec": cell_sec, "alone_sec": alone_sec, "added_sec": cell_sec - alone_sec}


def _study_sec(plan: Plan, out: Path) -> float:
    begin = time.perf_counter()
    Worker(plan, out, Claims(out, None, plan.name), train=NOTHING, say=lambda line: None).run()
    return time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--cells", type=int, nargs="+", default=[10, 40], help="sizes of the studies")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows = [measure(cells) for cells in options.cells]
    header = ["cells", "s per cell", "s per process alone", "added s per cell"]
    lines = [[row["cells"], *(f"{row[key]:.2f}" for key in ("cell_sec", "alone_sec", "added_sec"))] for row in rows]
    text = "\n\n".join(
        [
            "# What `smartfast study` adds to a training",
            f"{provenance(COMMAND)}; {machine(torch.device('cpu'))}",
            "Trainings that do nothing, one at a time, the storage SQLite. A real training has its own start beside it."
            f" Before it began, {load:.1f} other processes were running or waiting on {os.cpu_count()} CPUs.",
            markdown_table(header, lines),
        ]
    )
    write_tables(options.output / "study_cells", text + "\n", {"command": COMMAND, "versions": versions()}, rows=rows)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
