"""Count each phase of the training, eager against compiled: kernel launches, bytes moved, FLOPs; nothing is computed.

    python -m bench.count.phase_counts [--config digits] [--optim.batch=32 ...]

Any option of `smartfast train` works. Where a preset's data or scorer are not at hand, random ones of the same shape
take their place, and the report says so. Lowering takes about six minutes on one core, most of it for the score term.
Writes bench/results/phase_counts_<config>.md and .json, after every phase anew.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench.base.family import replacements, runs_per_iteration
from bench.base.jobs import Job, job_config
from bench.base.machine import provenance, versions
from bench.base.paper_jobs import open_paper_job
from bench.base.results import RESULTS, write_tables
from bench.count.counter import Counts, count_compiled, count_eager
from bench.report.table import markdown_table
from smartfast.engine.compiling import Compiler
from smartfast.engine.phase import Phase, run_phase
from smartfast.engine.statistics import Statistics
from smartfast.errors import UserError
from smartfast.run.describe import describe_layers
from smartfast.run.training import Training

COMMAND = "python -m bench.count.phase_counts"
MIB, GIGA = 2**20, 1e9
ABOUT = """\
Share: runs per iteration. Each phase draws its own random numbers. Launches: eager, PyTorch's operations that are
neither views nor allocations; compiled, library calls and generated loop nests. The project's own ops (random
numbers) count in both as the operations that they run on a CPU, since no compiler looks into them; on a GPU each is
one kernel. Calls: what the compiled code calls; on a CPU neighbouring loop nests are one function, own ops one call.
MiB: each tensor of each kernel once, a lower bound for PyTorch's operations, some of which pass over a tensor several
times where the compiler's loop nests show every pass (group normalisation). GFLOP: convolutions, matrix products and
attention; where eager and compiled differ, it is the derivative of the resampling filters, which the compiler takes
from PyTorch's convolution: the same sums, counted without the padding. Estimated: by `run.dry_run`, a backward pass
as two forward passes. Steps: accumulating gradients, statistics, Adam, averages; they are not compiled."""


@dataclass(frozen=True)
class Row:
    """One phase. share: Its runs per iteration. estimated_flops: By smartfast.run.describe; None = it has no figure."""

    phase: str
    share: float
    eager: Counts
    compiled: Counts
    estimated_flops: float | None

    def per_iteration(self) -> "Row":
        """The same, per iteration."""
        scale = self.share
        flops = None if self.estimated_flops is None else self.estimated_flops * scale
        return Row(self.phase, 1.0, self.eager.times(scale), self.compiled.times(scale), flops)


def estimated_flops(job: Job, training: Training) -> dict[str, float]:
    """FLOPs of one run of each phase as `smartfast.run.describe` estimates them."""
    flops = {
        name: float(sum(layer.flops for layer in describe_layers(training.family.modules[name], inputs)))
        for name, inputs in training.family.example_inputs().items()
    }
    if job.scorer is not None:
        t = torch.zeros(1, dtype=torch.int64)
        size = job.scorer.resolution
        images = torch.empty(1, job.scorer.channels, size, size, dtype=job.scorer.dtype)
        flops["scorer"] = count_eager(job.scorer.network, images, t, t if job.scorer.num_classes else None).flops
    costs = {cost.phase: cost.flops for cost in training.family.costs(flops)}
    for phase, replaced in replacements(training).items():
        costs[phase] = costs[replaced] + costs.pop("score")
    return {name: cost * job.config.optim.batch for name, cost in costs.items()}


def count_phase(phase: Phase, training: Training, compiler: Compiler) -> tuple[Counts, Counts, Counts]:
    """One run of a phase over the whole batch: computed eagerly, compiled, and the step that follows."""
    batch, rounds = training.rounds[0], len(training.rounds)
    eager = count_eager(phase.compute, batch)
    compiled = count_compiled(compiler(phase.name, phase.compute), batch)
    whole = count_eager(lambda *batches: run_phase(phase, batches, Statistics()), *training.rounds)
    step = whole.minus(eager.times(rounds))
    return eager.times(rounds), compiled.times(rounds), step


def count_job(job: Job, write: Callable[[Sequence[Row]], str]) -> str:
    """Every phase that runs, then the steps; `write` receives the rows after each. Returns what it made of all."""
    training = job.training(compile=False)
    compiler = Compiler(True, say=lambda line: print(line, file=sys.stderr))
    estimates = estimated_flops(job, training)
    rows: list[Row] = []
    steps = count_eager(training.ema.move)
    for name, share in runs_per_iteration(training).items():
        eager, compiled, step = count_phase(training.phases[name], training, compiler)
        rows.append(Row(name, share, eager, compiled, estimates.get(name)))
        steps = steps.plus(step.times(share))
        text = write([*rows, Row("steps", 1.0, steps, steps, None)])
    return text


def write_report(job: Job, name: str, command: str, folder: Path, rows: Sequence[Row]) -> str:
    """Write phase_counts_<name>.md and .json into `folder`, and return the Markdown."""
    batch, stand_ins = job.config.optim.batch, f" With {' and '.join(job.stand_ins)}." if job.stand_ins else ""
    header = ["", "share", "launches", "fewer", "calls", "MiB", "fewer", "GFLOP", "estimated"]
    whole = [*rows, total(rows)]
    text = [
        f"# What the phases of `{name}` launch, move and compute",
        provenance(command),
        f"Batch {batch}, eager / compiled, on a CPU.{stand_ins} {' '.join(ABOUT.split())}",
        markdown_table(header, map(_cells, whole)),
    ]
    head = {"command": command, "versions": versions(), "batch": batch, "stand_ins": job.stand_ins}
    markdown = "\n\n".join(text) + "\n"
    write_tables(folder / f"phase_counts_{name}", markdown, head, phases=map(_plain, whole))
    return markdown


def total(rows: Sequence[Row]) -> Row:
    """An iteration, averaged over the lazy intervals."""
    zero = Counts(0, 0, 0, 0, 0)
    scaled = [row.per_iteration() for row in rows]
    eager, compiled = zero, zero
    for row in scaled:
        eager, compiled = eager.plus(row.eager), compiled.plus(row.compiled)
    return Row("iteration", 1.0, eager, compiled, sum(row.estimated_flops or 0.0 for row in scaled))


def _plain(row: Row) -> dict:
    return row.__dict__ | {"eager": row.eager._asdict(), "compiled": row.compiled._asdict()}


def _cells(row: Row) -> list[object]:
    eager, compiled = row.eager, row.compiled
    return [
        row.phase,
        f"{row.share:.4g}",
        f"{eager.launches:.0f} / {compiled.launches:.0f}",
        f"{eager.launches / compiled.launches:.1f}x",
        f"{compiled.calls:.0f}",
        f"{eager.bytes / MIB:.1f} / {compiled.bytes / MIB:.1f}",
        f"{eager.bytes / compiled.bytes:.1f}x",
        f"{eager.flops / GIGA:.4g} / {compiled.flops / GIGA:.4g}",
        None if row.estimated_flops is None else f"{row.estimated_flops / GIGA:.4g}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="digits", help="a preset or a YAML file")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options, overrides = parser.parse_known_args(arguments)
    command = " ".join([COMMAND, "--config", options.config, *overrides])
    try:
        job = open_paper_job(job_config(options.config, overrides), device=torch.device("cpu"))
        print(count_job(job, partial(write_report, job, Path(options.config).stem, command, options.output)))
    except UserError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
