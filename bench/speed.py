"""Images per second of the compiled training and the eager one, measured in turns."""

import math
import statistics
import sys
import time
from typing import Any

import torch

from bench.jobs import Job
from bench.report_table import markdown_table


class Run:
    """One training that advances by iterations as the trainer's loop does, without snapshots and metrics.

    Args:
        job: What to train.
        compiled: As the job's perf settings say, perf.compile true where they say nothing; otherwise eager.
    """

    def __init__(self, job: Job, *, compiled: bool) -> None:
        perf = job.config.perf
        compile_ = (perf.compile or not perf.cuda_graphs) if compiled else False
        self.training = job.training(compile=compile_, cuda_graphs=compiled and perf.cuda_graphs)
        self.batches = job.batches(self.training)
        self.batch = job.config.optim.batch

    def iterate(self, iterations: int) -> float:
        """Run some iterations, wait for the device; returns images per second."""
        start_sec = time.perf_counter()
        for _ in range(iterations):
            self.training.run_iteration(next(self.batches))
        if self.training.device.type == "cuda":
            torch.cuda.synchronize()
        return iterations * self.batch / (time.perf_counter() - start_sec)


def period(job: Job) -> int:
    """Iterations after which the schedule of the phases repeats."""
    loss, frequency = job.config.loss, job.config.smart.frequency
    path_interval = loss.path_length_interval if loss.path_length_weight else 0
    return math.lcm(*(interval or 1 for interval in (frequency, path_interval, loss.r1_interval)))


def measure_speed(job: Job, *, blocks: int) -> dict[str, Any]:
    """Blocks of one period of the schedule, eager and compiled in turns, each first in every other pair.

    Returns:
        block_iterations, and images per second of each block: eager and compiled.
    """
    runs = {"eager": Run(job, compiled=False), "compiled": Run(job, compiled=True)}
    iterations = period(job)
    for name, run in runs.items():
        run.iterate(2 * iterations)  # compiles, chooses algorithms, captures graphs
        print(f"speed: {name} is warm", file=sys.stderr, flush=True)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks):
        for name in list(runs)[:: 1 if block % 2 else -1]:
            rates[name].append(runs[name].iterate(iterations))
    return {"block_iterations": iterations, "batch": job.config.optim.batch, **rates}


def speed_section(result: dict[str, Any]) -> str:
    """The part of the report."""
    eager, compiled = result["eager"], result["compiled"]
    ratios = [c / e for c, e in zip(compiled, eager, strict=True)]
    about = (
        f"{len(eager)} pairs of blocks of {result['block_iterations']} iterations of {result['batch']} images, one "
        "process, in turns; real images, optimizer and averages included, snapshots and metrics not."
    )
    rows = [
        [name, *(f"{value:.4g}" for value in (statistics.median(values), min(values), max(values)))]
        for name, values in (("eager, images/s", eager), ("compiled, images/s", compiled), ("ratio of a pair", ratios))
    ]
    return f"{about}\n\n" + markdown_table(["", "median", "lowest", "highest"], rows)
