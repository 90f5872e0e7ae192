"""What ADA costs: the work of StyleGAN2's phases with it and without, and its time on the CPU; no GPU.

    python -m bench.proofs.augmentation [--config cifar10 ...] [--time] [--pipe bgc] [--p 0.2]

Counts launches, bytes and FLOPs of d_main, d_r1 and g_main, and of the augmentation alone, run eagerly in PyTorch's
operations and in Triton's kernels; nothing is computed. --time: milliseconds of one thread, against the warp as one
writes it with grid_sample, whose values are compared as well. Takes a few minutes on one core. Writes
bench/results/augmentation.md and .json.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from bench.base.jobs import job_config
from bench.base.machine import machine, provenance, versions
from bench.base.paper_jobs import open_paper_job
from bench.base.results import RESULTS, write_tables
from bench.base.timing import Failure, Timing, agrees_with, measure
from bench.count.counter import count_eager, half_as_on_gpu
from bench.count.tracing import trace
from bench.proofs.straightforward_warp import straightforward_warp
from bench.report.table import markdown_table
from smartfast import kernels
from smartfast.augment import PIPES, colors, geometry
from smartfast.augment.ada import Augmentation
from smartfast.augment.transforms import draw_transforms
from smartfast.core.draws import Purpose
from smartfast.kernels import selection
from smartfast.kernels.runtime import Launch
from smartfast.run.training import Training

COMMAND = "python -m bench.proofs.augmentation"
SIZES = {"cifar10": (32, 64), "lsun_bedroom256": (256, 8)}
"""By preset: pixels, and images of a batch."""
PHASES = ("d_main", "d_r1", "g_main")
WAYS = {"aten": "PyTorch", "triton": "Triton"}
MIB, GIGA = 2**20, 1e9
WARP_ERROR = 1e-4
ABOUT = """\
Pipe {pipe}, p {p:g}: every image passes through every transform, with neutral strengths where it is not drawn, so p
changes nothing here. Preset {presets} in fp16, without score term. PyTorch: plain operations; Triton: this project's
kernels. GFLOP: of convolutions and matrix products in PyTorch's operations, filters included; Triton's kernels of the
warp (alone, below) by their multiply-adds. MiB: each tensor of each launch once. d_main augments fakes and reals; d_r1
takes the gradient of the augmented reals, and the derivative of that; g_main takes the gradient of its augmented
fakes."""
ABOUT_ALONE = """\
The augmentation of one batch in fp32; backward: forward, and the gradient for the images. Most launches are of draws
and of maps, a few numbers for each image."""
ABOUT_TIME = """\
Milliseconds of processor time, {machine}: median, and the middle 60 % in brackets; in turns, everything
drawn anew in each call. Straightforward: the same draws and colours, and a warp that pads, upsamples, looks up by
grid_sample and downsamples; results and gradients of both agree with it in float64 to {error:g}."""


@dataclass(frozen=True)
class Work:
    """Launches, bytes read and written, FLOPs."""

    launches: float
    bytes: float
    flops: float


@dataclass(frozen=True)
class OfPhase:
    """A phase without ADA and what it adds; way: key of WAYS."""

    resolution: int
    batch: int
    phase: str
    way: str
    without: Work
    added: Work


@dataclass(frozen=True)
class Alone:
    """One pass of a batch through the augmentation."""

    resolution: int
    batch: int
    passed: str
    way: str
    work: Work


@dataclass(frozen=True)
class Times:
    """One pass of a batch, seconds: ours, and straightforward."""

    resolution: int
    batch: int
    passed: str
    ours: Timing
    straightforward: Timing


@contextmanager
def on_paper(way: str) -> Iterator[None]:
    """Within it the ops are counted as a GPU would run them by one implementation, on a CPU's fake tensors."""
    devices = patch.object(selection, "TRITON_DEVICES", (*selection.TRITON_DEVICES, "cpu"))
    with kernels.use(way), half_as_on_gpu(), devices:
        yield


def count_phases(training: Training, way: str) -> dict[str, Work]:
    """One run of each phase over the batch of a training that is not compiled."""
    with on_paper(way):
        found = {name: count_eager(training.phases[name].compute, training.rounds[0]) for name in PHASES}
    return {name: Work(counts.launches, counts.bytes, counts.flops) for name, counts in found.items()}


def training_of(preset: str, settings: Sequence[str]) -> Training:
    """At its start, on random images where the data are not at hand; no score term."""
    config = job_config(preset, ["--smart.frequency=0", *settings])
    job = open_paper_job(config, device=torch.device("cpu"), counted_for_gpu=True)
    return job.training(compile=False, cuda_graphs=False)


def phases_of(preset: str, settings: Sequence[str], pipe: str, p: float) -> Iterator[OfPhase]:
    """Each phase by each way, without ADA and with it."""
    ada = ("--augment.mode=ada", f"--augment.pipe={pipe}", f"--augment.p={p}")
    trainings = training_of(preset, [*settings, "--augment.mode=off"]), training_of(preset, [*settings, *ada])
    batch, _, resolution, _ = trainings[0].rounds[0].images.shape
    for way in WAYS:
        without, whole = (count_phases(training, way) for training in trainings)
        for name in PHASES:
            a, b = without[name], whole[name]
            added = Work(b.launches - a.launches, b.bytes - a.bytes, b.flops - a.flops)
            yield OfPhase(resolution, batch, name, way, a, added)


class Pass:
    """One batch of RGB images through the augmentation."""

    def __init__(self, resolution: int, batch: int, pipe: str, p: float, device: str = "cpu") -> None:
        shape = (batch, 3, resolution, resolution)
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.images = values.to(device).requires_grad_()
        self.upstream = values.flip(0).to(device)
        self.stream = torch.arange(batch, device=device)
        self.augment = Augmentation(PIPES[pipe], torch.tensor(p, device=device), seed=0)

    def ours(self, images: Tensor) -> Tensor:
        """As the trainer does it."""
        return self.augment(images, self.stream, Purpose.AUGMENT_REALS)

    def straightforward(self, images: Tensor) -> Tensor:
        """The same transforms by PyTorch's own functions; of geometry and colours, which is all that bgc has."""
        of, (height, width) = self.augment, images.shape[2:]
        transforms = draw_transforms(of.pipe, of.p, of.seed, self.stream, int(Purpose.AUGMENT_REALS))
        matrix = geometry.inverse_map(transforms, width, height)[:, :2]
        warped = straightforward_warp(images, matrix, of.warp_filter)
        return colors.recolor(warped, transforms) if colors.has_colors(transforms) else warped

    def passes(self, function: Callable[[Tensor], Tensor]) -> dict[str, Callable[[Tensor], Any]]:
        """The forward pass, and the one with the gradient for the images, as functions of them."""

        def backward(images: Tensor) -> tuple[Tensor, Tensor]:
            y = function(images)
            (gradient,) = torch.autograd.grad(y, images, self.upstream.to(y.dtype))
            return y.detach(), gradient

        return {"forward": lambda images: function(images.detach()), "backward": backward}


def count_alone(resolution: int, batch: int, pipe: str, p: float) -> Iterator[Alone]:
    """Rows of both passes by each way."""
    of = Pass(resolution, batch, pipe, p, "meta")
    for way, (order, passed) in product(WAYS, enumerate(("forward", "backward"))):
        with kernels.use(way):
            traced = trace(partial(of.ours, of.images), [of.images], order)
        flops = sum(operation.flops for operation in traced.traffic) + sum(map(warp_flops, traced.launches))
        work = Work(len(traced.traffic), sum(operation.total for operation in traced.traffic), flops)
        yield Alone(resolution, batch, passed, way, work)


def warp_flops(launch: Launch) -> float:
    """FLOPs of a kernel of the warp by its multiply-adds; of the draws none."""
    a, name = launch.arguments, launch.kernel.fn.__name__
    if name in ("lookup_kernel", "spread_kernel"):
        return 2.0 * a["z"].numel() * (a["TAPS"] // 2 + 1) ** 2
    if name == "direct_kernel":
        return 2.0 * a["y"].numel() * a["KH"] * a["KW"] / (a["UP_X"] * a["UP_Y"])
    return 0.0


def measure_alone(resolution: int, batch: int, pipe: str, p: float, *, min_sec: float = 2.0) -> Iterator[Times]:
    """Both passes in turns, checked against the straightforward one in float64.

    Raises:
        RuntimeError: A result is wrong.
    """
    torch.set_num_threads(1)  # a training before it may have set others
    of = Pass(resolution, batch, pipe, p)
    truths = of.passes(of.straightforward)
    ours, others = of.passes(of.ours), of.passes(of.straightforward)
    exact = of.images.detach().double().requires_grad_()
    for name in ours:
        ways = {"ours": partial(ours[name], of.images), "straightforward": partial(others[name], of.images)}
        found = measure(
            ways,
            device=torch.device("cpu"),
            min_sec=min_sec,
            check=agrees_with(truths[name](exact), WARP_ERROR),
            peak=False,
            clock=time.process_time,
        )
        for way, outcome in found.items():
            if isinstance(outcome, Failure):
                raise RuntimeError(f"{name} by {way} at {resolution} pixels: {outcome.error}")
        timings = [cast(Timing, found[way]) for way in ways]
        yield Times(resolution, batch, name, *timings)


def report(about: dict[str, Any], phases: Sequence[OfPhase], alone: Sequence[Alone], times: Sequence[Times]) -> str:
    """The result in Markdown; about: What the texts name."""
    text = [
        "# What ADA costs",
        provenance(about["command"]),
        " ".join(ABOUT.format(**about).split()),
        _phase_table(phases),
        "## The augmentation alone",
        " ".join(ABOUT_ALONE.split()),
        _alone_table(alone),
    ]
    if times:
        where = ABOUT_TIME.format(machine=machine(torch.device("cpu")), error=WARP_ERROR)
        text += ["## Time on the CPU", " ".join(where.split()), _time_table(times)]
    return "\n\n".join(text) + "\n"


def _phase_table(rows: Sequence[OfPhase]) -> str:
    header = ["pixels", "phase", "", "launches", "ADA adds", "MiB", "ADA adds", "GFLOP", "ADA adds"]
    cells = []
    for row in sorted(rows, key=lambda row: (row.resolution, row.phase)):
        a, b = row.without, row.added
        flops: list[object] = [None, None]
        if row.way == "aten":
            flops = [f"{a.flops / GIGA:.0f}", f"{b.flops / GIGA:.3g} ({b.flops / a.flops:.2%})"]
        cells.append(
            [row.resolution, row.phase, WAYS[row.way], f"{a.launches:.0f}", f"{b.launches:.0f}"]
            + [f"{a.bytes / MIB:.0f}", f"{b.bytes / MIB:.0f} ({b.bytes / a.bytes:.1%})", *flops]
        )
    return markdown_table(header, cells)


def _alone_table(rows: Sequence[Alone]) -> str:
    header = ["pixels", "batch", "pass", "", "launches", "MiB", "GFLOP"]
    cells = [
        [row.resolution, row.batch, row.passed, WAYS[row.way], f"{row.work.launches:.0f}"]
        + [f"{row.work.bytes / MIB:.1f}", f"{row.work.flops / GIGA:.3g}"]
        for row in rows
    ]
    return markdown_table(header, cells)


def _time_table(rows: Sequence[Times]) -> str:
    def cell(timing: Timing) -> str:
        return f"{timing.median_sec * 1e3:.0f} ({timing.p20_sec * 1e3:.0f} to {timing.p80_sec * 1e3:.0f})"

    header = ["pixels", "batch", "pass", "ours", "straightforward", "straightforward / ours"]
    return markdown_table(
        header,
        [
            [row.resolution, row.batch, row.passed, cell(row.ours), cell(row.straightforward)]
            + [f"{row.straightforward.median_sec / row.ours.median_sec:.2f}x"]
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--config", nargs="+", default=list(SIZES), choices=SIZES, help="presets")
    parser.add_argument("--time", action="store_true", help="time the augmentation on the CPU as well")
    parser.add_argument("--pipe", default="bgc", choices=["blit", "geom", "color", "bg", "bgc"], help="transforms")
    parser.add_argument("--p", type=float, default=0.2, help="probability of each transform")
    options = parser.parse_args(arguments)
    settings = dict(pipe=options.pipe, p=options.p)
    command = COMMAND + (" --time" if options.time else "")
    for name in ("config", "pipe", "p"):
        if (value := getattr(options, name)) != parser.get_default(name):
            command += f" --{name} {' '.join(value) if isinstance(value, list) else value}"
    phases: list[OfPhase] = []
    alone: list[Alone] = []
    times: list[Times] = []
    for preset in options.config:
        resolution, batch = SIZES[preset]
        phases += phases_of(preset, [f"--optim.batch={batch}"], **settings)
        alone += count_alone(resolution, batch, **settings)
        times += measure_alone(resolution, batch, **settings) if options.time else []
    sizes = (f"{name} at {SIZES[name][0]} pixels, batch {SIZES[name][1]}" for name in options.config)
    about = dict(settings, command=command, presets=" and ".join(sizes))
    text = report(about, phases, alone, times)
    head = {"command": command, "versions": versions(), **settings}
    tables = dict(phases=map(asdict, phases), alone=map(asdict, alone), times=map(asdict, times))
    write_tables(options.output / "augmentation", text, head, **tables)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
