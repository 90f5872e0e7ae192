"""The forecast of a run's memory (`run.dry_run`, `optim.batch_gpu auto`) against the allocator's records; no GPU.

    python -m bench.proofs.memory_forecast [--configs digits ...] [--batch 32]

Runs every phase of some presets once on the CPU under PyTorch's profiler, whose records of each allocation give the
peak, workspaces of operations included. Writes bench/results/memory_forecast.md and .json.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.base.jobs import job_config, open_job
from bench.base.machine import provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.engine.phase import with_gradients
from smartfast.run.memory import peaks

COMMAND = "python -m bench.proofs.memory_forecast"
CONFIGS = ("digits", "r3gan_digits", "biggan_digits", "aurora_digits")
ABOUT = """\
MiB at the peak of each phase, above what lives before it, {batch} images at a time, fp32, eager, plain PyTorch on a
CPU. Measured: the sum of the allocator's records, which has what an operation takes for itself while it runs (copies in
another memory order, workspaces of oneDNN) and the forecast has not."""


@dataclass(frozen=True)
class Peak:
    """Of one phase, in bytes."""

    config: str
    phase: str
    forecast_bytes: int
    measured_bytes: int


def measured_peak_bytes(compute: Callable[[], object]) -> int:
    """The most that a computation on the CPU holds at a time, by the allocator's records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    result = profiler.profiler
    assert result is not None, "a profiler that has ended has a result"
    records = [event for event in result.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        live += record.nbytes()
        peak = max(peak, live)
    return peak


def measure(name: str, batch: int) -> Iterator[Peak]:
    """The peaks of a preset's phases."""
    device = torch.device("cpu")
    config = job_config(name, [f"--optim.batch={batch}", "--perf.kernels=reference"])
    job = open_job(config, device=device)
    forecast = peaks(config, job.dataset, batch, job.scorer, job.timesteps)
    training = job.training()
    training.load(next(job.batches(training)))
    training.scalars.set(training.images)
    for spec in training.specs:
        compute = with_gradients(spec, training.networks[spec.network].parameters.parameters)
        compute(training.rounds[0])  # what is made once and kept, such as oneDNN's code, is no part of a phase
        measured = measured_peak_bytes(lambda: compute(training.rounds[0]))  # noqa: B023, called at once
        yield Peak(name, spec.name, forecast.phases[spec.name], measured)


def report(rows: Sequence[Peak], batch: int) -> str:
    """The result in Markdown."""
    cells = [
        [
            row.config,
            row.phase,
            f"{row.forecast_bytes / 2**20:.1f}",
            f"{row.measured_bytes / 2**20:.1f}",
            f"{100 * (row.forecast_bytes / row.measured_bytes - 1):+.0f} %",
        ]
        for row in rows
    ]
    header = ["preset", "phase", "forecast", "measured", "forecast / measured - 1"]
    about = " ".join(ABOUT.format(batch=batch).split())
    return "\n\n".join(["# Memory forecast", provenance(COMMAND), about, markdown_table(header, cells)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="presets whose data are at hand")
    parser.add_argument("--batch", type=int, default=32, help="images at a time")
    options = parser.parse_args(arguments)
    rows = [row for name in options.configs for row in measure(name, options.batch)]
    text = report(rows, options.batch)
    head = {"command": COMMAND, "versions": versions(), "batch": options.batch}
    write_tables(options.output / "memory_forecast", text, head, peaks=map(asdict, rows))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
