"""Thousands of ticks of a tiny run: whether memory, file descriptors, threads and the time of a tick stay as they were.

    python -m bench.proofs.soak [--ticks 5000]

The run is of 8x8 digits without a scorer, a snapshot and a sheet of samples every 50 ticks, an evaluation every 500,
and TensorBoard. At the end of each tick the process itself is asked; the table compares the first and the last
fifth of the ticks, the first ten of which belong to the start and are left out. Memory is compared by its least value
too: what a collector has yet to free is no leak. Writes bench/results/soak.md and .json.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import psutil
import torch

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.config.parse import parse_config
from smartfast.run.launch import launch
from smartfast.run.trainer import Trainer

COMMAND = "python -m bench.proofs.soak"
IMAGES_PER_TICK = 16
START_TICKS = 10
SETTINGS = """--config=digits --data.resolution=8 --data.labels=false --gan.z_dim=8 --gan.w_dim=8 --gan.mapping_layers=1
--gan.d_mapping_layers=1 --gan.channel_base=64 --gan.channel_max=8 --gan.mbstd_group=4 --gan.mbstd_by_class=false
--loss.r1_interval=4 --optim.batch=8 --smart.frequency=0 --metrics.names=[fid] --metrics.samples=200
--metrics.every_ticks=500 --run.snapshot_ticks=50 --run.tick_kimg=0.016 --run.tracker=tensorboard
--perf.cpu_threads=1""".split()
ABOUT = """\
Of one process, at the end of every tick of {images} images: resident memory, open file descriptors, threads, and the
seconds of the tick without snapshots and evaluations. Medians, and the least value, of the first and the last fifth of
{ticks} ticks. {machine}."""
QUANTITIES = {
    "resident_bytes": ("resident memory, MiB", 2**20),
    "descriptors": ("file descriptors", 1),
    "threads": ("threads", 1),
    "tick_sec": ("time of a tick, ms", 1e-3),
}
KEYS = ("first", "last", "least_first", "least_last")
HEADER = ("first, median", "last, median", "first, least", "last, least")


class Sample(NamedTuple):
    """The process at the end of a tick."""

    resident_bytes: int
    descriptors: int
    threads: int
    tick_sec: float


def samples_of_run(folder: Path, ticks: int) -> list[Sample]:
    """Train for `ticks` ticks in this process, and look at it at the end of each."""
    process, samples = psutil.Process(), []
    usual = Trainer._tick_row

    def tick_row(self: Trainer) -> dict[str, Any]:
        row = usual(self)
        found = process.memory_info().rss, process.num_fds(), process.num_threads()
        samples.append(Sample(*found, row["sec_per_tick"]))
        return row

    kimg = ticks * IMAGES_PER_TICK / 1000
    with patch.object(Trainer, "_tick_row", tick_row):
        launch(parse_config([*SETTINGS, f"--run.dir={folder}", f"--run.kimg={kimg}"]))
    return samples


def fifths(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The first and the last fifth, without those of the start."""
    size = len(samples) // 5
    return samples[min(START_TICKS, size // 2) : size], samples[-size:]


def table_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each quantity: medians and least values of both fifths, and the drift of the medians."""
    first, last = fifths(samples)
    rows = []
    for field, (name, unit) in QUANTITIES.items():
        early, late = ([getattr(sample, field) / unit for sample in part] for part in (first, last))
        medians = statistics.median(early), statistics.median(late)
        rows.append(
            {
                "quantity": name,
                "first": medians[0],
                "last": medians[1],
                "drift": medians[1] / medians[0] - 1,
                "least_first": min(early),
                "least_last": min(late),
            }
        )
    return rows


def report(rows: Sequence[dict[str, Any]], ticks: int) -> str:
    """The Markdown page."""
    cells = [[row["quantity"], *(f"{row[key]:.4g}" for key in KEYS), f"{row['drift']:+.1%}"] for row in rows]
    table = markdown_table(["", *HEADER, "drift of the median"], cells)
    about = ABOUT.format(images=IMAGES_PER_TICK, ticks=ticks, machine=machine(torch.device("cpu")))
    return "\n\n".join(["# A long run stays as it was", provenance(f"{COMMAND} --ticks {ticks}"), about, table]) + "\n"


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ticks", type=int, default=5000)
    ticks = parser.parse_args().ticks
    with tempfile.TemporaryDirectory() as folder:
        samples = samples_of_run(Path(folder) / "run", ticks)
    rows = table_rows(samples)
    head = {"command": f"{COMMAND} --ticks {ticks}", "versions": versions(), "ticks": len(samples)}
    write_tables(RESULTS / "soak", report(rows, len(samples)), head, quantities=rows)
    print(report(rows, len(samples)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
