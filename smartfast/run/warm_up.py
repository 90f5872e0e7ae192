"""Before the first tick every phase is compiled and captured, and what came of it is compared with the eager phase.

All runs begin from one state, which is put back: a run with a warm-up is bit-equal to one without. Comparisons are made
once for each configuration and machine; their verdicts are kept beside those of the kernels.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from smartfast.config.parse import config_to_yaml
from smartfast.config.schema import Config, MetricsConfig, RunConfig
from smartfast.core.caches import default_cache_dir
from smartfast.engine.graphs import WARM_UP_RUNS
from smartfast.engine.phase import Phase, run_phase, with_gradients
from smartfast.engine.statistics import Statistics
from smartfast.kernels import switched_off
from smartfast.run.main_process import on_main_process
from smartfast.run.training import Training
from smartfast.run.verdicts import PHASE, VerdictFile, Verdicts, machine, sources_of

MAX_ERRORS = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 5e-2, "bf16": 2e-1}
"""Of a gradient against the eager one in the same precision: roundings in another order, over some twenty layers."""
HALF_SCORER_ERROR = 5e-2
"""The same where the score term's network rounds to half precision, whatever the precision of the rest."""

COMPARED_DEVICES = ("cuda",)
_WITHOUT_GRAPH = "without a CUDA graph"


def warm_up(training: Training, accelerator: Accelerator, folder: Path | None = None) -> None:
    """Compile and capture every phase; on a GPU with perf.verify auto one whose gradient is wrong falls back, said so.

    folder: Of the verdicts; None = in the user's cache.
    """
    perf = training.config.perf
    if not training.compiler.works and training.graphs is None:
        return
    is_compared = perf.verify == "auto" and training.device.type in COMPARED_DEVICES
    kept = VerdictFile(folder or default_cache_dir() / "kernels", machine(training.device))
    known: Verdicts = on_main_process(accelerator, lambda: kept.read()[0]) if is_compared else {}
    training.scalars.set(training.images)
    with tqdm(training.phases.values(), desc="phases", disable=None) as phases:
        found = {key_of(training, phase): _prepared(training, phase, known, is_compared) for phase in phases}
    for _ in range(WARM_UP_RUNS + 1 if training.captured["ema"] else 0):
        with held(training):
            training.steps["ema"]()
    for phase in training.phases.values():
        if (problem := (known | found).get(key_of(training, phase))) is not None:
            accelerator.print(f"performance: {problem}")
    if is_compared and found.keys() - known.keys() and accelerator.is_main_process:
        if (complaint := kept.write(known | found)) is not None:
            accelerator.print(complaint)
    if training.compile_sec:
        accelerator.print(f"performance: every phase is ready after {training.compile_sec:.1f} s of compiling")
    training.forget_compile_sec()


def key_of(training: Training, phase: Phase) -> str:
    """What a verdict is true for: the phase, and every setting that changes what is computed."""
    return f"{PHASE}{phase.name} of {_digest(training.config)} over {training.num_processes}"


def _digest(config: Config) -> str:
    """Of a configuration without what only says where, how long and how often, and of the code that computes it."""
    perf = dataclasses.replace(config.perf, compile=config.perf.compile == "background" or config.perf.compile)
    same = dataclasses.replace(config, run=RunConfig(), metrics=MetricsConfig(), perf=perf)
    code = sources_of(Path(__file__).parents[1])  # of the phases as well, and what of the kernels is switched off
    content = "\0".join([config_to_yaml(same), code, *sorted(switched_off())])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _prepared(training: Training, phase: Phase, known: Verdicts, is_compared: bool) -> str | None:
    """Compile and capture a phase; returns what is wrong with that, None if nothing, or if nobody looked."""
    key = key_of(training, phase)
    if not is_compared or key in known:
        if (problem := known.get(key)) is not None:
            _fall_back(training, phase, only_graph=_WITHOUT_GRAPH in problem)
        _gradients(training, phase)
        return known.get(key)
    return compare(training, phase)


def compare(training: Training, phase: Phase) -> str | None:
    """Hold a phase as it is compiled and captured to the eager one, from the state that there is.

    It runs without a graph from then on where only that is wrong, else eagerly.

    Returns:
        What was wrong, None if nothing.
    """
    limit = max_error(training)
    expected = _eager(training, phase)
    found = _gradients(training, phase)
    error = _error(found, expected)
    if error <= limit or _error(_eager(training, phase), expected) > limit:
        return None  # right, or two eager runs differ as well, by features dropped at random: nothing to compare with
    text = f"{phase.name} runs {{}}, for its gradient was off by {error:.2g} otherwise, expected at most {limit:g}"
    if any(step.replay is not None for step in training.captured[phase.name]):
        _fall_back(training, phase, only_graph=True)
        if _error(_gradients(training, phase), expected) <= limit:
            return text.format(_WITHOUT_GRAPH)
    _fall_back(training, phase)
    return text.format("eagerly")


def max_error(training: Training) -> float:
    """The largest relative error of a phase's gradient."""
    config = training.config
    usual = MAX_ERRORS[config.perf.precision]
    return max(usual, HALF_SCORER_ERROR) if config.smart.frequency and config.smart.precision != "fp32" else usual


def _fall_back(training: Training, phase: Phase, *, only_graph: bool = False) -> None:
    for step in training.captured[phase.name]:
        step.abandon()
    if only_graph:
        return
    phase.compute = with_gradients(phase.spec, phase.network.parameters.parameters)


def _eager(training: Training, phase: Phase) -> list[Tensor]:
    eager = Phase(phase.spec, phase.network, with_gradients(phase.spec, phase.network.parameters.parameters))
    results = []
    for rounds in training.turns[: phase.spec.repeat]:
        with held(training):
            run_phase(eager, rounds, Statistics())
            results.append(phase.network.buffer.clone())
    return results


def _gradients(training: Training, phase: Phase) -> list[Tensor]:
    """What a phase's steps, captured if they are to be, leave in the buffer that is averaged, each from one state."""
    results = []
    for step in training.turn_steps[phase.name]:
        for _ in range(WARM_UP_RUNS + 1 if training.captured[phase.name] else 1):
            with held(training):
                step()
                result = phase.network.buffer.clone()
        results.append(result)
    return results


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error, infinite where a number is not finite that should be."""
    errors = [float((a - b).norm() / (b.norm() or 1.0)) for a, b in zip(found, expected, strict=True)]
    return max(error if error == error else float("inf") for error in errors)


@contextmanager
def held(training: Training) -> Iterator[None]:
    """Fill the batch with noise, and put everything back behind the block that a step changes."""
    # On the host: a run that just fits a GPU has no room for its state twice.
    kept = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in _changed_by_steps(training)]
    images = training.batch.images
    rng = torch.Generator(images.device).manual_seed(0)
    images.copy_(torch.rand(images.shape, generator=rng, device=images.device).mul_(2).sub_(1))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        training.statistics.clear()


def _changed_by_steps(training: Training) -> list[Tensor]:
    moving, batch = training.moving, training.batch
    return [
        *training.state().values(),
        *(network.buffer for network in training.networks.values()),
        *(moving.live, moving.pending, *moving.live_counts, *moving.counts),
        batch.images,
    ]
