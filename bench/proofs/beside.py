"""Evaluations in line and beside training (`metrics.where`), by turns: the same values, and what each way costs.

    python -m bench.proofs.beside [--pairs 2] [--threads 1 2] [--kimg 16] [--samples 10000]

A digits run is evaluated every second tick, on many more samples than there are digits, so that the next tick is
trained while the evaluation beside it goes on: these ticks are compared. Nothing else may run on the machine.
Writes bench/results/beside.md and .json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torchvision.models import inception_v3
from tqdm import tqdm

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.core.run_log import read_rows

COMMAND = "python -m bench.proofs.beside"
WAYS = ("inline", "beside")
EVERY_TICKS = 2
FID_SAMPLES, FID_BATCH, FID_PIXELS = 50_000, 16, 299
ABOUT = """\
Runs of `smartfast train --config digits --run.kimg={kimg:g} --metrics.samples={samples}`, evaluated every {every} ticks
of 4 kimg, {pairs} of each way by turns, {load:.1f} other processes at the start; means. {machine}. *After*: images/s in
the ticks after one that was evaluated, which an evaluation beside training accompanies for as long as it takes. *The
others*: all other ticks but the first. *Whole run*: from the start of the process to its end, imports included."""
FORECAST = """\
**Forecast for FID-50k.** An InceptionV3 of random weights takes {sec:.3f} s an image on this machine, one thread, so
50,000 take {minutes:.0f} minutes beside what the generator takes: in line training waits for them at every
evaluation, beside it training goes on at the rate above. Not measured: a GPU."""
HEADER = ("threads", "where", "images/s after", "images/s, the others", "evaluation, s", "whole run, s", "values equal")


class Run(NamedTuple):
    """What is kept of one run: images/s of both kinds of ticks, seconds, and the metrics by kimg."""

    after: float
    others: float
    evaluation_sec: float
    wall_sec: float
    values: dict[float, dict[str, float]]


def run(where: str, threads: int, arguments: Sequence[str], folder: Path) -> Run:
    """Train once, in a process of its own."""
    options = [f"--metrics.where={where}", f"--perf.cpu_threads={threads}", f"--run.dir={folder}", *arguments]
    fixed = ["--config=digits", "--run.tracker=none", f"--metrics.every_ticks={EVERY_TICKS}"]
    begin = time.perf_counter()
    command = [sys.executable, "-m", "smartfast", "train", *fixed, *options]
    subprocess.run(command, check=True, capture_output=True)
    return run_of_rows(read_rows(folder / "metrics.jsonl"), time.perf_counter() - begin)


def run_of_rows(rows: Sequence[dict[str, Any]], wall_sec: float) -> Run:
    """What the rows of metrics.jsonl say; the evaluation before the first tick counts for its values alone."""
    ticks = {row["tick"]: row["images_per_sec"] for row in rows if row["kind"] == "tick"}
    metrics = [row for row in rows if row["kind"] == "metrics"]
    after = [speed for tick, speed in ticks.items() if tick > 1 and tick % EVERY_TICKS == 1]
    others = [speed for tick, speed in ticks.items() if tick % EVERY_TICKS != 1]
    seconds = [row["metric/seconds"] for row in metrics if row["kimg"] > 0]
    values = {row["kimg"]: {k: v for k, v in row.items() if k.startswith("metric/")} for row in metrics}
    for of_moment in values.values():
        del of_moment["metric/seconds"]
    return Run(statistics.mean(after), statistics.mean(others), statistics.mean(seconds), wall_sec, values)


def table_rows(runs: dict[str, list[Run]], threads: int) -> list[dict[str, Any]]:
    """A row for each way: means over its runs, and whether its metrics are those of the run in line."""
    rows = []
    for where, of_way in runs.items():
        pairs = zip(of_way, runs["inline"], strict=True)
        means = {name: statistics.mean(getattr(one, name) for one in of_way) for name in Run._fields[:-1]}
        is_equal = all(one.values == other.values for one, other in pairs)
        rows.append({"threads": threads, "where": where, **means, "values_equal": is_equal})
    return rows


@torch.no_grad()
def inception_sec(batches: int = 4) -> float:
    """Seconds for an image in an InceptionV3 of torchvision's, on one thread, whose weights are random."""
    torch.set_num_threads(1)
    network = inception_v3(weights=None, init_weights=False).eval()
    images = torch.rand(FID_BATCH, 3, FID_PIXELS, FID_PIXELS)
    network(images)
    begin = time.perf_counter()
    for _ in range(batches):
        network(images)
    return (time.perf_counter() - begin) / (batches * FID_BATCH)


def report(rows: Sequence[dict[str, Any]], fid_sec: float, about: str, command: str) -> str:
    """The Markdown page."""
    numbers = [[f"{row[name]:.1f}" for name in Run._fields[:-1]] for row in rows]
    cells = [
        [row["threads"], row["where"], *figures, "yes" if row["values_equal"] else "NO"]
        for row, figures in zip(rows, numbers, strict=True)
    ]
    forecast = FORECAST.format(sec=fid_sec, minutes=FID_SAMPLES * fid_sec / 60)
    parts = ["# Evaluations beside training", provenance(command), about, markdown_table(HEADER, cells), forecast]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--pairs", type=int, default=2, help="runs of each way")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="perf.cpu_threads of the trainings")
    parser.add_argument("--kimg", type=float, default=16)
    parser.add_argument("--samples", type=int, default=10_000, help="of each evaluation")
    options, load, rows = parser.parse_args(arguments), os.getloadavg()[0], []
    of_run = [f"--run.kimg={options.kimg}", f"--metrics.samples={options.samples}"]
    for threads in options.threads:
        runs: dict[str, list[Run]] = {where: [] for where in WAYS}
        for pair in tqdm(range(options.pairs), desc=f"pairs, {threads} threads", disable=None):
            for where in WAYS[:: 1 if pair % 2 == 0 else -1]:
                with tempfile.TemporaryDirectory() as folder:
                    runs[where].append(run(where, threads, of_run, Path(folder) / "run"))
        rows += table_rows(runs, threads)
    about = ABOUT.format(**vars(options), every=EVERY_TICKS, load=load, machine=machine(torch.device("cpu")))
    fid_sec = inception_sec()
    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    text = report(rows, fid_sec, about, command)
    head = {"command": command, "versions": versions(), "inception_sec_per_image": fid_sec}
    write_tables(options.output / "beside", text, head, ways=rows)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
