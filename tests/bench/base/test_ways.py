"""Captured calls, with a stand-in for CUDA graphs, and calls without the project's kernels."""

from collections.abc import Callable

import pytest
import torch

from bench.base import ways
from bench.base.timing import Failure, Timing
from bench.base.ways import Captured, by_reference, with_capture
from smartfast import kernels
from smartfast.kernels import implementation_of

CPU = torch.device("cpu")


class Graphs:
    """Runs what it is to capture."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def run(self, step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        return lambda: None


def test_a_captured_call_runs_for_warmth_is_measured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def measured(call: Callable[[], object], device: torch.device) -> int:
        order.append("measured")
        call()
        return 7

    def call() -> int:
        order.append("call")
        return len(order)

    monkeypatch.setattr(ways, "CudaGraphs", Graphs)
    monkeypatch.setattr(ways, "peak_bytes", measured)
    captured = Captured(call, CPU)
    assert captured.peak_bytes is None
    assert captured() == captured() == 5
    assert order == ["call"] * ways.WARM_UP_RUNS + ["measured", "call"]
    timing = Timing(1.0, 0.9, 1.1, repeats=3, calls=1, peak_bytes=0)
    assert with_capture(timing, captured) == Timing(1.0, 0.9, 1.1, repeats=3, calls=1, peak_bytes=7)
    assert with_capture(timing, None) == timing
    assert with_capture(Failure("wrong"), captured) == Failure("wrong")


def test_the_reference_is_in_force_during_the_call_alone() -> None:
    with kernels.use("auto"):
        inside = by_reference(lambda name: implementation_of(name, "cuda"))("bias_act")
        assert inside[0] == "aten"
        assert implementation_of("bias_act", "cuda")[0] == "triton"
