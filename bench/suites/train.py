"""The train suite: whole training, with the score term and without, by plain PyTorch and as fast as it goes.

A call is one period of the lazy schedule: every phase as often as the trainer runs it, real images, optimizers and the
averaged generator included, snapshots and metrics not. `reference` runs eagerly, without the project's kernels. As
fast as it goes: compiled, on CUDA captured in graphs too.
"""

import gc
import warnings
from typing import Any

import torch
from tqdm import tqdm

from bench.base import family
from bench.base.device_profile import device_profile
from bench.base.jobs import EAGER, PRESETS, Job, Loop, job_config, settings
from bench.base.options import Options
from bench.base.paper_jobs import open_paper_job, trainer_settings
from bench.base.results import Run
from bench.base.timing import Failure, Timing, measure
from bench.base.ways import REFERENCE, by_reference
from bench.count.roofline import count_preset

WITHOUT_SCORE = "--smart.frequency=0"
MAX_SKIPPED = 0.1
"""Skipped optimizer steps per iteration, of two to five; one may be skipped in any case, as in a first iteration."""
MIN_REPEATS = {"cuda": 3, "cpu": 6}
"""Fewer on a GPU, whose time is short: a call is a whole period of the schedule, 16 iterations in the presets."""


def run(options: Options, results: Run) -> None:
    """Time what there is time for; on a CPU the digits only."""
    for name in tqdm(options.configs or PRESETS[options.device.type], desc="train"):
        if not options.time_left_sec():
            results.skip(name)
            continue
        overrides = settings(name, options)
        with results.attempt({"config": name}):
            job = open_paper_job(job_config(name, overrides), device=options.device)
            with trainer_settings(job.config, options.device):
                _measure_job(name, job, overrides, options, results)
        gc.collect()


def _measure_job(name: str, job: Job, overrides: tuple[str, ...], options: Options, results: Run) -> None:
    bare = open_paper_job(job_config(name, (*overrides, WITHOUT_SCORE)), device=options.device)
    on_gpu = options.device.type == "cuda"
    providers = {REFERENCE: EAGER}
    if not options.quick:
        providers["cuda_graph" if on_gpu else "compiled"] = job.fast_perf()
    # Of both jobs: a call with the score term and one without differ in nothing else.
    start = job.training(**EAGER)
    iterations, images = 1 if options.quick else start.period, start.images_per_iteration
    del start
    trainings = {
        (provider, score): TimedTraining(job if score else bare, iterations, perf)
        for provider, perf in providers.items()
        for score in ([True, False] if job.scorer is not None else [False])
    }
    names = {f"{provider}, {'with' if score else 'without'} score": (provider, score) for provider, score in trainings}
    calls = {
        label: by_reference(trainings[key]) if key[0] == REFERENCE else trainings[key] for label, key in names.items()
    }
    timing = options.trial or dict(min_repeats=MIN_REPEATS[options.device.type])

    def check(label: str, result: object) -> str | None:
        return too_many_skipped(trainings[names[label]])

    outcomes = measure(calls, device=options.device, check=check, peak=not on_gpu, **timing)
    images *= iterations
    captured: dict[int, TimedTraining] = {}
    for label, outcome in outcomes.items():
        provider, score = names[label]
        timed = trainings[names[label]]
        about = job.about(name) | {"provider": provider, "score": score, "iterations": iterations}
        about["frequency"] = job.config.smart.frequency if score else 0
        if isinstance(outcome, Timing) and (problem := too_many_skipped(timed)):
            outcome = Failure(problem)
        row = {**about, **outcome.row(), "skipped_steps": timed.skipped_steps}
        if isinstance(outcome, Timing):
            row |= _figures(outcome, timed, images)
            row |= _floor(name, score, overrides, outcome, images, options, results)
        number = results.add(row)
        if isinstance(outcome, Timing) and provider == "cuda_graph":
            captured[number] = timed
    for number, timed in captured.items():
        results.extend(number, device_profile(timed, options.device))


def too_many_skipped(timed: "TimedTraining") -> str | None:
    """Why a training's time means nothing: training goes on after a skipped step, but not where most are."""
    skipped, iterations = timed.skipped_steps, timed.iterations_done
    if skipped <= max(1, MAX_SKIPPED * iterations):
        return None
    return f"wrong: {skipped} optimizer steps in {iterations} iterations were not finite"


class TimedTraining:
    """A training as a provider: a call is some iterations.

    Args:
        job: What to train.
        iterations: Per call.
        perf: Changed fields of the perf settings.

    Attributes:
        held_bytes: On CUDA, the most memory that the training held from its start to the end of the first call, the
            scorer's weights included.
    """

    def __init__(self, job: Job, iterations: int, perf: dict[str, Any]) -> None:
        self.job, self.iterations, self.perf = job, iterations, perf
        self.loop: Loop | None = None
        self.held_bytes: int | None = None

    def __call__(self) -> None:
        if self.loop is None:
            self.loop = self._started()
        else:
            self.loop.iterate(self.iterations)

    def _started(self) -> Loop:
        """Build, compile and capture; raises where compiling or capturing falls back to something else."""
        device = self.job.device
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        loop = Loop(self.job, **self.perf)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=r"perf\.(compile|cuda_graphs)")
            loop.iterate(loop.training.settling_iterations if self.perf["compile"] else 1)
        if on_gpu:
            torch.cuda.synchronize(device)
            weights = self.job.scorer.parameters() if self.job.scorer else ()
            self.held_bytes = torch.cuda.max_memory_allocated(device) - before + sum(x.nbytes for x in weights)
        loop.training.timer.read()
        return loop

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps so far that were skipped because something was not finite."""
        return 0 if self.loop is None else family.skipped_steps(self.loop.training)

    @property
    def iterations_done(self) -> int:
        """Since the start, those that compile and capture included."""
        return 0 if self.loop is None else self.loop.training.images // self.loop.training.images_per_iteration


def _figures(timing: Timing, timed: TimedTraining, images: int) -> dict[str, Any]:
    """What people ask for, from the time of a call."""
    assert timed.loop is not None
    means = timed.loop.training.timer.read()
    figures = {
        "sec_per_kimg": timing.median_sec * 1000 / images,
        "images_per_sec": images / timing.median_sec,
        "data_wait_share": means["ms/data"] / 1e3 * timed.iterations / timing.median_sec,
    }
    return figures if timed.held_bytes is None else figures | {"peak_bytes": timed.held_bytes}


def _floor(
    name: str, score: bool, overrides: tuple[str, ...], timing: Timing, images: int, options: Options, results: Run
) -> dict[str, Any]:
    """Floor of a call, its arithmetic, and what share of the device's matrix rate that arithmetic reached.

    The rate is that of bf16 on CUDA, whatever the precision, as in the targets of design.md; on a CPU that of fp32.
    """
    if results.limits is None:
        return {}
    on_gpu = options.device.type == "cuda"
    _, counted = count_preset(name, overrides, for_gpu=on_gpu)
    roofline = (counted if score else counted.without_score()).roofline(results.limits)
    flops = roofline.flops_per_kimg * images / 1000
    rate = results.limits.flops_per_sec["bf16" if on_gpu else "fp32"]
    floor_sec = roofline.sec_per_kimg() * images / 1000
    return {"flops": flops, "floor_sec": floor_sec, "mfu": flops / timing.median_sec / rate}
