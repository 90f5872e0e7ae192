"""Whether the compiled training computes what the eager one does, beside what a single rounding changes.

    python -m bench.proofs.equality [--config digits] [--iterations 200] [--optim.batch=32 ...]

Training is chaotic: the smallest difference grows. So a third run, eager with every weight moved to the next number
that float32 has, shows how far two runs drift apart for no other reason than rounding. Any option of `smartfast train`
works. Writes bench/results/equality_<config>.md and .json.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.base.jobs import EAGER, Job, Loop, job_config
from bench.base.machine import machine, provenance
from bench.base.paper_jobs import open_paper_job
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.errors import UserError
from smartfast.metrics import MetricUnavailable, evaluate
from smartfast.metrics.names import Metric
from smartfast.run.training import Training

COMMAND = "python -m bench.proofs.equality"
OTHERS = ("compiled", "rounding")
_MARKS = (1, 10, 50, 100, 150, 200)
_EARLY = 10


def measure_equality(job: Job, *, iterations: int) -> dict[str, Any]:
    """Run eager, compiled and eager-after-one-rounding side by side.

    Returns:
        statistics: by name, the values of each run, one per iteration in which the statistic was computed; parameters:
        by run and network, the relative difference from the eager run at `marks`; fid: by run, at `marks`, empty where
        it cannot be computed.
    """
    runs = {
        "eager": Loop(job, **EAGER),
        "compiled": Loop(job, **job.fast_perf()),
        "rounding": Loop(job, **EAGER),
    }
    for moved in runs["rounding"].training.networks.values():
        move_by_one_rounding_(moved.parameters.flat, seed=job.config.run.seed)
    marks = sorted({mark for mark in _MARKS if mark < iterations} | {iterations})
    series: dict[str, dict[str, list[float]]] = {}
    drift: dict[str, dict[str, list[float]]] = {name: {} for name in OTHERS}
    fid: dict[str, list[float]] = {name: [] for name in runs}
    for iteration in range(1, iterations + 1):
        for name, run in runs.items():
            run.iterate(1)
            for statistic, value in run.training.statistics.read().items():
                series.setdefault(statistic, {n: [] for n in runs})[name].append(value)
        if iteration in marks:
            for name in OTHERS:
                for network, value in drift_of(runs[name].training, runs["eager"].training).items():
                    drift[name].setdefault(network, []).append(value)
            for name, value in _frechet_distances(job, runs).items():
                fid[name].append(value)
            print(f"{iteration} of {iterations} iterations", file=sys.stderr, flush=True)
    return {"iterations": iterations, "marks": marks, "statistics": series, "parameters": drift, "fid": fid}


def move_by_one_rounding_(values: Tensor, *, seed: int) -> None:
    """Replace every number by the next larger or the next smaller one of its dtype, at random."""
    generator = torch.Generator().manual_seed(seed)
    up = (torch.rand(values.shape, generator=generator) < 0.5).to(values.device)
    target = torch.where(up, torch.inf, -torch.inf)
    with torch.no_grad():
        values.copy_(torch.nextafter(values, target.to(values.dtype)))


def drift_of(training: Training, eager: Training) -> dict[str, float]:
    """Norm of the difference of all weights relative to the norm of the eager run's, by network."""
    ours, theirs = _weights(training), _weights(eager)
    return {name: ((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in ours}


def _weights(training: Training) -> dict[str, Tensor]:
    flat = {name: network.parameters.flat for name, network in training.networks.items()}
    return flat | {"ema": training.ema.parameters.flat}


def relative_differences(values: list[float], eager: list[float]) -> list[float]:
    """|difference| at each iteration, relative to the root mean square of the eager run's values."""
    scale = statistics.fmean(value * value for value in eager) ** 0.5 or 1.0
    return [abs(a - b) / scale for a, b in zip(values, eager, strict=True)]


def _frechet_distances(job: Job, runs: dict[str, Loop]) -> dict[str, float]:
    metrics = replace(job.config.metrics, names=("fid",))
    distance = str(Metric("fd", metrics.features))
    if not metrics.every_ticks:
        return {}
    try:
        return {
            name: evaluate(run.training.sampler(), job.dataset, metrics, device=job.device, progress=False)[distance]
            for name, run in runs.items()
        }
    except MetricUnavailable as error:
        print(f"{COMMAND}: no Frechet distance: {error}", file=sys.stderr)
        return {}


def report(result: dict[str, Any], name: str) -> str:
    """The result in Markdown."""
    about = (
        f"{result['iterations']} iterations from the same seed. compiled: the compiled run against the eager one; "
        "rounding: an eager run whose weights began one rounding (1 unit in the last place) away, against the eager "
        f"one. Statistics: |difference| relative to the eager run's root mean square, largest of the first {_EARLY} "
        "values, then median and largest of all."
    )
    header = ["statistic", *(f"{name}, {column}" for name in OTHERS for column in ("early", "median", "largest"))]
    rows = []
    for statistic, values in result["statistics"].items():
        cells: list[str] = []
        for other in OTHERS:
            differences = relative_differences(values[other], values["eager"])
            chosen = (max(differences[:_EARLY]), statistics.median(differences), max(differences))
            cells += [f"{value:.1e}" for value in chosen]
        rows.append([statistic, *cells])
    text = [f"# `{name}`: compiled against eager", result["provenance"], about, markdown_table(header, rows)]
    marks = [f"after {mark}" for mark in result["marks"]]
    drift = [
        [f"{network}, {other}", *(f"{value:.1e}" for value in values)]
        for other, networks in result["parameters"].items()
        for network, values in networks.items()
    ]
    text += ["Weights: norm of the difference relative to the norm.", markdown_table(["", *marks], drift)]
    distances = [[other, *(f"{value:.4g}" for value in values)] for other, values in result["fid"].items() if values]
    if distances:
        text += ["Frechet distance of the averaged generator.", markdown_table(["", *marks], distances)]
    return "\n\n".join(text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="digits", help="a preset or a YAML file")
    parser.add_argument("--iterations", type=int, default=200, help="length of the runs")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(default_device), help="where to train")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options, overrides = parser.parse_known_args(arguments)
    asked = ["--config", options.config, "--iterations", str(options.iterations), "--device", str(options.device)]
    command = " ".join([COMMAND, *asked, *overrides])
    try:
        job = open_paper_job(job_config(options.config, overrides), device=options.device)
    except UserError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    stand_ins = f"; with {' and '.join(job.stand_ins)}" if job.stand_ins else ""
    about = f"{provenance(command)}, {machine(job.device)}{stand_ins}"
    result = {"provenance": about, **measure_equality(job, iterations=options.iterations)}
    name = Path(options.config).stem
    write_tables(options.output / f"equality_{name}", report(result, name), result)
    print(report(result, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
