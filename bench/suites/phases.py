"""The phases suite: every phase of the real trainer, eager, compiled and captured in a CUDA graph.

A row is one phase of one configuration, precision and provider; a call is one run of the phase over the whole batch
with its optimizer step. `reference` runs eagerly with plain PyTorch operations, `eager` with the project's kernels,
where there are any. All providers start from the same weights, and one whose gradient differs from the reference gets
no time. Each configuration comes first in its own precision, then the others in the same order.
"""

import functools
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bench.base.device_profile import device_profile
from bench.base.family import replacements, runs_per_iteration
from bench.base.jobs import EAGER, PRESETS, Job, job_config, settings
from bench.base.options import Options
from bench.base.paper_jobs import open_paper_job, trainer_settings
from bench.base.results import Row, Run
from bench.base.timing import Timing, agrees_with, measure
from bench.base.ways import REFERENCE, by_reference
from bench.count.roofline import count_preset
from smartfast.engine.graphs import WARM_UP_RUNS, CapturedStep
from smartfast.engine.phase import run_phase
from smartfast.run.training import Training
from smartfast.run.warm_up import HALF_SCORER_ERROR, MAX_ERRORS

PRECISIONS = ("fp16", "bf16", "tf32", "fp32")
PROFILED_CALLS = 5
"""Of a captured phase; an eager one shows its launches in one."""

Timed = tuple[int, Callable[[], object], int]
"""A row's number, what it timed, and how many calls of it to profile."""


def run(options: Options, results: Run) -> None:
    """Time what there is time for; on a CPU the digits only, without CUDA graphs."""
    for name, precision in tqdm(list(plan(options)), desc="phases"):
        if not options.time_left_sec():
            results.skip(f"{name} in {precision}")
            continue
        overrides = settings(name, options, f"--perf.precision={precision}")
        with results.attempt({"config": name, "dtype": precision}):
            job = open_paper_job(job_config(name, overrides), device=options.device)
            with trainer_settings(job.config, options.device):
                _measure_job(name, job, overrides, options, results)
        gc.collect()


def plan(options: Options) -> Iterator[tuple[str, str]]:
    """Configurations and precisions, the most wanted first."""
    on_gpu = options.device.type == "cuda"
    names = options.configs or PRESETS[options.device.type]
    own = {name: job_config(name, options.overrides).perf.precision for name in names}
    yield from own.items()
    if on_gpu and not options.quick:
        yield from ((name, other) for other in PRECISIONS for name in names if other != own[name])


def _measure_job(name: str, job: Job, overrides: tuple[str, ...], options: Options, results: Run) -> None:
    trainings = {REFERENCE: job.training(**EAGER)}
    if options.device.type == "cuda":
        trainings["eager"] = job.training(**EAGER)
    if not options.quick:
        trainings["compiled"] = job.training(**job.fast_perf())
    for training in trainings.values():
        training.load(next(job.batches(training)))
    starts = {mode: _copy(training.state()) for mode, training in trainings.items()}
    timed: list[Timed] = []
    replacing = replacements(trainings[REFERENCE])
    for phase, share in runs_per_iteration(trainings[REFERENCE]).items():
        if not options.time_left_sec():
            results.skip(f"{name} {phase}")
            continue
        about = _about(name, phase, share, job, overrides, options, results)
        with results.attempt(about):
            timed += _measure_phase(
                trainings, starts, about, options, results, max_error(job, scores=phase in replacing)
            )
    for row, call, calls in timed:
        results.extend(row, device_profile(call, options.device, calls=calls))


def max_error(job: Job, *, scores: bool) -> float:
    """The largest relative error of a phase's gradient against the reference; scores: with the score term."""
    usual = MAX_ERRORS[job.config.perf.precision]
    is_half = scores and job.scorer is not None and job.scorer.dtype != torch.float32
    return max(usual, HALF_SCORER_ERROR) if is_half else usual


def _measure_phase(
    trainings: Mapping[str, Training],
    starts: Mapping[str, Mapping[str, Tensor]],
    about: Row,
    options: Options,
    results: Run,
    limit: float,
) -> list[Timed]:
    expected = _ways(about["phase"], trainings, starts)[REFERENCE]().clone()
    ways = _ways(about["phase"], trainings, starts)
    timed: list[Timed] = []
    check = agrees_with(expected, limit)
    for provider, outcome in measure(ways, device=options.device, check=check, **options.trial).items():
        row = {**about, "provider": provider, **outcome.row()}
        if isinstance(outcome, Timing):
            images = trainings[REFERENCE].images_per_iteration
            row["sec_per_kimg"] = outcome.median_sec * about["runs_per_iteration"] * 1000 / images
            is_captured = provider == "cuda_graph"
            if is_captured:
                row["peak_bytes"] = None  # a replay allocates nothing: what it needs was taken at the capture
            timed.append((results.add(row), ways[provider], PROFILED_CALLS if is_captured else 1))
        else:
            results.add(row)
    return timed


def _ways(
    phase: str, trainings: Mapping[str, Training], starts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Callable[[], Tensor]]:
    """What runs one phase, by provider; each returns the gradient."""
    ways: dict[str, Callable[[], Tensor]] = {}
    for mode, training in trainings.items():
        step = functools.partial(run_phase, training.phases[phase], training.rounds, training.statistics)
        run = PhaseRun(training, phase, step, starts[mode])
        ways[mode] = by_reference(run) if mode == REFERENCE else run
        if isinstance(training.steps[phase], CapturedStep):
            ways["cuda_graph"] = PhaseRun(training, phase, training.steps[phase], starts[mode])
    return ways


class PhaseRun:
    """One phase as a provider: it returns the gradient, that of the first call at the run's start.

    Args:
        training: Its batch is loaded.
        phase: Name.
        step: What runs the phase.
        start: The state that the first call starts from.
    """

    def __init__(self, training: Training, phase: str, step: Callable[[], None], start: Mapping[str, Tensor]) -> None:
        self.training, self.step, self.start = training, step, start
        self.gradient = training.phases[phase].network.gradient
        self.is_ready = False

    def __call__(self) -> Tensor:
        if not self.is_ready:
            self._get_ready()
        self.step()
        return self.gradient

    def _get_ready(self) -> None:
        """Compile and capture; raises where either falls back to something else."""
        runs = WARM_UP_RUNS + 1 if isinstance(self.step, CapturedStep) else 1
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=r"perf\.(compile|cuda_graphs)")
            for _ in range(runs):
                self.step()
        self.training.restore(dict(self.start), images=0)
        self.is_ready = True


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _about(
    name: str, phase: str, share: float, job: Job, overrides: tuple[str, ...], options: Options, results: Run
) -> dict[str, Any]:
    """The keys that all providers of a phase share, its floor among them."""
    about = job.about(name) | {"phase": phase, "runs_per_iteration": share}
    if results.limits is None:
        return about
    _, counted = count_preset(name, overrides, for_gpu=options.device.type == "cuda")
    floor = counted.roofline(results.limits).phases[phase]
    return about | {"flops": floor.flops, "bytes": floor.bytes, "floor_sec": floor.floor_sec}
