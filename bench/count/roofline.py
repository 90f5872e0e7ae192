"""The floor of a training: how long its arithmetic and memory traffic take at least, on a machine's ceilings.

    python -m bench.count.roofline [--config digits] [--device h100] [--gpus 1] [--layers] [--optim.batch=64 ...]

--device is the beginning of a name of bench.base.devices, or `measured`: this machine. Options of `smartfast train`
work.

Each pass of each layer takes the longest of its matrix arithmetic at the rate of its precision, its filters' arithmetic
at the rate of fp32, and its bytes at the copy bandwidth. Layers run one after another, and the average of the gradients
over GPUs, a ring over the link, behind them. bench.count.counter says what is counted. A floor predicts what
cannot be undercut, but for layers that stay in the cache; what will be measured is longer.
"""

import argparse
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from bench.base import family
from bench.base.devices import Device, find_device
from bench.base.jobs import Job, job_config
from bench.base.limits import Limits, measure_limits
from bench.base.paper_jobs import open_paper_job
from bench.count.counter import training_work
from bench.count.tracing import Operation
from bench.report.table import markdown_table
from smartfast.errors import UserError

COMMAND = "python -m bench.count.roofline"
GIGA = 1e9


class LayerFloor(NamedTuple):
    """What one pass of a layer costs at least in one run of a phase.

    layer, is_backward: See `Operation`. precision: Of its matrix arithmetic. flops: Without the filters'. limited_by:
    compute or memory.
    """

    layer: str
    is_backward: bool
    precision: str
    flops: int
    bytes: int
    floor_sec: float
    limited_by: str


@dataclass(frozen=True)
class PhaseFloor:
    """What one run of a phase costs at least on one GPU.

    runs_per_iteration: Below 1 for lazy phases. flops: Of products, convolutions and attention, without the filters.
    floor_sec: Arithmetic and memory. limited_by: Which of them takes more of it. communication_sec: Averaging the
    gradient over the GPUs.
    """

    phase: str
    runs_per_iteration: float
    flops: int
    bytes: int
    floor_sec: float
    limited_by: str
    communication_sec: float = 0.0


@dataclass(frozen=True)
class Roofline:
    """The floors of a training's phases, `ema` (the averaged generator) among them.

    images: Per iteration, on all GPUs. replaces: The phases with the score term, and those that they run in place of.
    """

    phases: Mapping[str, PhaseFloor]
    images: int
    replaces: Mapping[str, str] = field(default_factory=dict)

    @property
    def flops_per_kimg(self) -> float:
        """Arithmetic per thousand images, on all GPUs together if `images` are those of one GPU."""
        return sum(p.runs_per_iteration * p.flops for p in self.phases.values()) * 1000 / self.images

    def sec_per_kimg(self, phase: str | None = None) -> float:
        """Seconds per thousand images, of one phase at its interval or of all; communication included."""
        phases = self.phases.values() if phase is None else [self.phases[phase]]
        return sum(p.runs_per_iteration * (p.floor_sec + p.communication_sec) for p in phases) * 1000 / self.images

    def score_overhead(self, frequency: int) -> float | None:
        """What the score term adds every `frequency` iterations, over training without it; None without one."""
        if not self.replaces:
            return None
        runs = {name: phase.runs_per_iteration for name, phase in self.phases.items()}
        added_sec = 0.0
        for phase, replaced in self.replaces.items():
            added_sec += self.phases[phase].floor_sec - self.phases[replaced].floor_sec
            runs |= {phase: 0.0, replaced: runs[replaced] + runs[phase]}
        without = sum(runs[p.phase] * (p.floor_sec + p.communication_sec) for p in self.phases.values())
        return added_sec / frequency / without


def layer_floors(work: Iterable[Operation], limits: Limits, *, tf32: bool) -> list[LayerFloor]:
    """One row for each layer and pass, in the order in which they first occur.

    Args:
        work: Of one run of a phase.
        limits: Of the machine.
        tf32: Whether float32 products and convolutions run as tf32.
    """
    groups: dict[tuple[str, bool], list[Operation]] = {}
    for item in work:
        groups.setdefault((item.layer, item.is_backward), []).append(item)
    return [_layer_floor(layer, is_backward, items, limits, tf32) for (layer, is_backward), items in groups.items()]


def _layer_floor(layer: str, is_backward: bool, work: Sequence[Operation], limits: Limits, tf32: bool) -> LayerFloor:
    def rate(precision: str) -> float:
        return limits.flops_per_sec["tf32" if tf32 and precision == "fp32" else precision]

    matrix = [item for item in work if not item.is_filter]
    filter_sec = sum(item.flops for item in work if item.is_filter) / limits.flops_per_sec["fp32"]
    compute_sec = max(sum(item.flops / rate(item.precision) for item in matrix if item.flops), filter_sec)
    moved_bytes = sum(item.total for item in work)
    memory_sec = moved_bytes / limits.copy_bytes_per_sec
    return LayerFloor(
        layer,
        is_backward,
        "+".join(sorted({item.precision for item in matrix or work})),
        sum(item.flops for item in matrix),
        moved_bytes,
        max(compute_sec, memory_sec),
        "memory" if memory_sec > compute_sec else "compute",
    )


def phase_floor(
    phase: str,
    runs_per_iteration: float,
    work: Iterable[Operation],
    limits: Limits,
    *,
    tf32: bool,
    communication_sec: float = 0.0,
) -> PhaseFloor:
    """The floor of one run of a phase; arguments as in `PhaseFloor` and `layer_floors`."""
    layers = layer_floors(work, limits, tf32=tf32)
    floor_sec = sum(layer.floor_sec for layer in layers)
    memory_sec = sum(layer.floor_sec for layer in layers if layer.limited_by == "memory")
    return PhaseFloor(
        phase,
        runs_per_iteration,
        flops=sum(layer.flops for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
        floor_sec=floor_sec,
        limited_by="memory" if memory_sec > floor_sec / 2 else "compute",
        communication_sec=communication_sec,
    )


def all_reduce_sec(gradient_bytes: float, gpus: int, link_bytes_per_sec: float) -> float:
    """A ring: every GPU sends, and receives, 2 (gpus - 1) / gpus of the gradient.

    Args:
        gradient_bytes: Of one network.
        gpus: That share a batch.
        link_bytes_per_sec: One direction, of the slowest link of the ring.
    """
    return 2 * (gpus - 1) / gpus * gradient_bytes / link_bytes_per_sec


@dataclass(frozen=True)
class CountedJob:
    """A job's work on one GPU: every phase, its runs per iteration, and the gradient bytes that it averages.

    replaces: As of `Roofline`.
    """

    work: Mapping[str, Sequence[Operation]]
    runs_per_iteration: Mapping[str, float]
    gradient_bytes: Mapping[str, int]
    images: int
    tf32: bool
    replaces: Mapping[str, str] = field(default_factory=dict)

    def roofline(self, limits: Limits, *, gpus: int = 1, link_bytes_per_sec: float | None = None) -> Roofline:
        """The floors on a machine.

        Args:
            limits: Its ceilings.
            gpus: How many of them share the work, each doing as much as was counted.
            link_bytes_per_sec: See `all_reduce_sec`; needed for several.

        Raises:
            UserError: Several GPUs without a link.
        """
        if gpus > 1 and link_bytes_per_sec is None:
            raise UserError(f"gpus is {gpus}, expected 1 on a machine whose link is not known")
        floors = {}
        for name, work in self.work.items():
            communication_sec = 0.0
            if gpus > 1 and link_bytes_per_sec is not None:
                communication_sec = all_reduce_sec(self.gradient_bytes.get(name, 0), gpus, link_bytes_per_sec)
            runs = self.runs_per_iteration[name]
            floors[name] = phase_floor(name, runs, work, limits, tf32=self.tf32, communication_sec=communication_sec)
        return Roofline(floors, self.images * gpus, self.replaces)

    def without_score(self) -> "CountedJob":
        """The same training without the score term."""
        runs = dict(self.runs_per_iteration)
        for phase, replaced in self.replaces.items():
            runs[replaced] += runs.pop(phase)
        work = {name: work for name, work in self.work.items() if name in runs}
        return replace(self, work=work, runs_per_iteration=runs, replaces={})


def count_job(job: Job, *, tf32: bool) -> CountedJob:
    """Count the work of a job; takes some ten seconds and computes nothing.

    Args:
        job: On any device; its batch is that of one GPU.
        tf32: Whether float32 runs as tf32 where the job is to run.
    """
    training = job.training(compile=False, cuda_graphs=False)
    runs = family.runs_per_iteration(training)
    work = training_work(training, list(runs), modules=family.modules(training, job.scorer))
    gradient_bytes = {
        name: training.phases[name].network.buffer.numel() * training.phases[name].network.buffer.element_size()
        for name in runs
    }
    replaces = family.replacements(training)
    return CountedJob(work, runs | {"ema": 1.0}, gradient_bytes, training.images_per_iteration, tf32, replaces)


@functools.cache
def count_preset(
    name: str, overrides: tuple[str, ...] = (), *, gpus: int = 1, for_gpu: bool = True
) -> tuple[Job, CountedJob]:
    """Count a configuration as one of several GPUs would run it, on a machine that need not have one.

    Args:
        name, overrides: See `job_config`; optim.batch is that of all GPUs.
        gpus: How many share the batch.
        for_gpu: False: as a CPU runs it, where smart.precision auto is fp32.

    Returns:
        The job of one GPU, its scorer dropped, and its work; the same ones for the same arguments.

    Raises:
        UserError: As `open_paper_job`, or a batch that cannot be shared.
    """
    batch = job_config(name, overrides).optim.batch
    if batch % gpus:
        raise UserError(f"optim.batch is {batch}, expected a multiple of the {gpus} GPUs")
    config = job_config(name, [*overrides, f"--optim.batch={batch // gpus}"])
    job = open_paper_job(config, device=torch.device("cpu"), counted_for_gpu=for_gpu)
    counted = count_job(job, tf32=for_gpu and config.perf.precision != "fp32")
    return replace(job, scorer=None), counted


def phase_table(roofline: Roofline) -> str:
    """Markdown: every phase and the whole."""
    rows: list[list[str | None]] = [
        [
            phase.phase,
            f"{phase.runs_per_iteration:.4g}",
            f"{phase.flops / GIGA:,.1f}",
            f"{phase.bytes / GIGA:,.3f}",
            f"{phase.floor_sec * 1e3:.3f}",
            f"{phase.communication_sec * 1e3:.3f}",
            phase.limited_by,
            f"{roofline.sec_per_kimg(phase.phase):.4f}",
        ]
        for phase in roofline.phases.values()
    ]
    flops = f"{roofline.flops_per_kimg * roofline.images / 1000 / GIGA:,.1f}"
    rows.append(["all", "1", flops, None, None, None, None, f"{roofline.sec_per_kimg():.4f}"])
    header = ["phase", "runs per iteration", "GFLOP", "GB", "floor, ms", "all-reduce, ms", "limited by", "s/kimg"]
    return markdown_table(header, rows)


def layer_table(floors: Sequence[LayerFloor]) -> str:
    """Markdown: every layer of a phase."""
    rows = [
        [
            floor.layer or "(no layer)",
            "backward" if floor.is_backward else "forward",
            floor.precision,
            f"{floor.flops / GIGA:,.3f}",
            f"{floor.bytes / 1e6:,.2f}",
            f"{floor.floor_sec * 1e6:,.1f}",
            floor.limited_by,
        ]
        for floor in floors
    ]
    return markdown_table(["layer", "pass", "precision", "GFLOP", "MB", "floor, us", "limited by"], rows)


def describe(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """What the command prints."""
    device: Device | None = None if options.device == "measured" else find_device(options.device)
    job, counted = count_preset(options.config, tuple(overrides), gpus=options.gpus)
    limits = device.limits if device else measure_limits(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    roofline = counted.roofline(
        limits, gpus=options.gpus, link_bytes_per_sec=device.link_bytes_per_sec if device else None
    )
    where = f"{device.name} ({device.source})" if device else "this machine, measured ceilings"
    stand_ins = f", with {' and '.join(job.stand_ins)}" if job.stand_ins else ""
    text = [f"Floors (predictions) of `{options.config}` on {options.gpus} x {where}{stand_ins}", phase_table(roofline)]
    frequency = job.config.smart.frequency
    if frequency and (overhead := roofline.score_overhead(frequency)) is not None:
        text.append(f"The score term, every {frequency} iterations, adds {100 * overhead:.1f} %.")
    if options.layers:
        for phase, work in counted.work.items():
            text += [f"## {phase}", layer_table(layer_floors(work, limits, tf32=counted.tf32))]
    return "\n\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="digits", help="a preset or a YAML file")
    parser.add_argument("--device", default="h100", help="a GPU of bench.base.devices, or `measured`")
    parser.add_argument("--gpus", type=int, default=1, help="how many share the batch")
    parser.add_argument("--layers", action="store_true", help="every layer as well")
    options, overrides = parser.parse_known_args(arguments)
    try:
        print(describe(options, overrides))
    except UserError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
