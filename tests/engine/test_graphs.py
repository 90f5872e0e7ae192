"""Captured steps: without a GPU by a recorder that stands in for CUDA's, with one for real."""

import warnings
from collections.abc import Callable

import pytest
import torch

from smartfast.data import RealBatch
from smartfast.engine.graphs import WARM_UP_RUNS, CapturedStep, CudaGraphs, Step
from smartfast.run.training import Training

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Recorder:
    """What CudaGraphs does, without a GPU: a recorded step does not run until it is replayed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.recorded = self.replayed = 0

    def run(self, step: Step) -> None:
        step()

    def record(self, step: Step) -> Step:
        if self.error is not None:
            raise self.error
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


def counting_step() -> tuple[torch.Tensor, Step]:
    total = torch.zeros([])
    return total, lambda: total.add_(1)


def test_every_call_is_one_run_warm_up_capture_and_replay_alike() -> None:
    total, step = counting_step()
    recorder = Recorder()
    captured = CapturedStep("g_main", step, recorder)
    for runs in range(1, WARM_UP_RUNS + 4):
        captured()
        assert total == runs
    assert (recorder.recorded, recorder.replayed) == (1, 3)


def test_a_failed_capture_says_why_once_and_the_step_goes_on() -> None:
    total, step = counting_step()
    captured = CapturedStep("d_r1", step, Recorder(RuntimeError("operation not permitted\nwhen capturing")))
    with pytest.warns(UserWarning, match="d_r1 cannot be captured .*: operation not permitted$") as caught:
        for _ in range(WARM_UP_RUNS + 3):
            captured()
    assert len(caught) == 1 and total == WARM_UP_RUNS + 3


@pytest.fixture(scope="module", params=["false", "true"], ids=["eager", "compiled"])
def captured(
    request: pytest.FixtureRequest, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> Training:
    """A run on a GPU that has captured every phase, of eager or compiled ones, without a warning."""
    run = tiny_training("cuda", perf__cuda_graphs="true", perf__compile=request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(run.settling_iterations):
            run.run_iteration(tiny_reals("cuda"))
    return run


def copy_of(run: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.state().items()}


def step(run: Training, phase: str, reals: RealBatch) -> torch.Tensor:
    """One step of a phase; what was averaged over the processes in it: gradient, loss, carried values."""
    run.load(reals)
    run.scalars.set(run.images)
    run.steps[phase]()
    return run.phases[phase].network.buffer.clone()


@needs_gpu
@pytest.mark.parametrize("phase", ["g_main", "g_score", "g_path", "d_main", "d_r1"])
def test_a_replayed_step_is_the_eager_step_and_draws_new_numbers(
    captured: Training, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch], phase: str
) -> None:
    """From one state, elementwise: a training of many steps would be chaotic."""
    start, images, reals = copy_of(captured), captured.images, tiny_reals("cuda")
    eager = tiny_training("cuda")
    results = []
    for run in (eager, captured):
        run.restore(start, images=images)
        results.append((step(run, phase, reals), copy_of(run)))
    (gradient, state), (replayed_gradient, replayed_state) = results
    assert gradient.norm() > 0 and (replayed_gradient - gradient).norm() < 1e-5 * gradient.norm()
    for name, value in state.items():
        scale = max(value.abs().max().item(), 1e-8)
        assert (replayed_state[name] - value).abs().max().item() <= 1e-5 * scale, name
    if phase != "d_r1":  # which draws nothing
        captured.restore(start, images=images)
        captured.images += captured.images_per_iteration
        other = step(captured, phase, reals)
        assert (other - replayed_gradient).norm() > 1e-3 * gradient.norm()
    captured.restore(start, images=images)


@needs_gpu
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_an_iteration_never_waits_for_the_gpu(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch], graphs: str
) -> None:
    run, reals = tiny_training("cuda", perf__cuda_graphs=graphs), tiny_reals("cuda")
    for _ in range(8 * (WARM_UP_RUNS + 1)):
        run.run_iteration(reals)
    before = run.images
    torch.cuda.set_sync_debug_mode("error")  # whatever waits raises
    try:
        for _ in range(8):
            run.run_iteration(reals)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.images == before + 8 * len(reals.images)
    if run.graphs is not None:
        replayed = {name for name, step in run.steps.items() if step.replay is not None}
        assert replayed == {"g_score", "g_main", "g_path", "d_main", "d_r1", "ema"}


@needs_gpu
def test_a_step_that_waits_for_the_gpu_is_not_captured_and_goes_on() -> None:
    total, graphs = torch.zeros([], device="cuda"), CudaGraphs(torch.device("cuda"))
    waits, other = CapturedStep("waits", lambda: total.add_(1).item(), graphs), CapturedStep("adds", total.neg_, graphs)
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="waits cannot be captured") as caught:
        for _ in range(WARM_UP_RUNS + 2):
            waits()
    assert total.item() == WARM_UP_RUNS + 2 and len(caught) == 1
    assert torch.cuda.current_stream() == stream
    for _ in range(WARM_UP_RUNS + 2):
        other()
    assert other.replay is not None and total.item() == -(WARM_UP_RUNS + 2)
