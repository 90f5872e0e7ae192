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


@needs_gpu
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_replayed_phases_train_like_eager_ones(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch], compiled: str
) -> None:
    """Long enough for every lazy phase to be captured and replayed."""
    runs = [
        tiny_training("cuda", perf__cuda_graphs=graphs, perf__compile=compile)
        for graphs, compile in (("false", "false"), ("true", compiled))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in runs:
            for _ in range(8 * (WARM_UP_RUNS + 2)):
                run.run_iteration(tiny_reals("cuda"))
    states = [run.state() for run in runs]
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, rtol=1e-2, atol=1e-3), name
    assert runs[1].statistics.read() == pytest.approx(runs[0].statistics.read(), rel=1e-2, abs=1e-3)


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
