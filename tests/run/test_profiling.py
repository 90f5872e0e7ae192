"""Summaries of traces: one of a GPU made by hand, and a real one of this CPU."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import record_function

from smartfast.cli import main
from smartfast.run.profiling import ITERATION, IterationProfiler, describe, summarize
from smartfast.run.training import Training


def event(category: str, name: str, start: float, end: float, thread: int = 7) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": end - start, "tid": thread}


GPU_TRACE = [
    {"ph": "M", "name": "process_name"},
    event("user_annotation", ITERATION, 0, 30, thread=1),
    event("cuda_runtime", "cudaLaunchKernel", 1, 2, thread=1),
    event("cuda_runtime", "cudaStreamSynchronize", 3, 9, thread=1),
    event("gpu_user_annotation", ITERATION, 100, 150),
    event("gpu_user_annotation", "g_main", 100, 120),
    event("gpu_user_annotation", "d_main", 120, 150),
    event("kernel", "conv", 100, 108),
    event("kernel", "add", 106, 112),  # on another stream, beside conv
    event("kernel", "conv", 120, 140),
    event("gpu_memcpy", "Memcpy HtoD", 145, 150),
    event("kernel", "before the first iteration", 80, 90),
    event("gpu_user_annotation", ITERATION, 98, 104, thread=9),  # the same iteration on another stream
    event("gpu_user_annotation", "data", 98, 104, thread=9),
    event("cuda_runtime", "cudaDeviceSynchronize", 40, 50, thread=1),  # the profiler's own, after the iterations
]


def test_summary_of_a_gpu_trace() -> None:
    result = summarize(GPU_TRACE)
    assert (result.where, result.iterations, result.window_us) == ("gpu", 1, 50)
    assert result.kernels == {
        ("g_main", "conv"): (1, 8),
        ("g_main", "add"): (1, 6),
        ("d_main", "conv"): (1, 20),
        ("d_main", "Memcpy HtoD"): (1, 5),
    }
    assert result.waits == {"cudaStreamSynchronize": 1}
    assert result.idle_us == 8 + 5
    assert [(gap.name, gap.start_us, gap.end_us) for gap in result.gaps] == [("g_main", 112, 120), ("d_main", 140, 145)]
    text = describe(result)
    assert "idle between kernels 26.0% of the time" in text and "d_main: 0.03 ms and 2 kernels per iteration" in text


def test_operations_count_only_their_own_time_on_a_cpu() -> None:
    trace = [
        event("user_annotation", ITERATION, 0, 100),
        event("user_annotation", "g_path", 10, 60),
        event("user_annotation", "Optimizer.step", 14, 30),
        event("cpu_op", "aten::conv2d", 10, 50),
        event("cpu_op", "aten::convolution", 15, 45),
        event("cpu_op", "aten::empty", 16, 20),
        event("cpu_op", "aten::add", 70, 80),
        event("cpu_op", "of another thread", 0, 100, thread=8),
    ]
    result = summarize(trace)
    assert result.kernels == {
        ("g_path", "aten::conv2d"): (1, 10),
        ("g_path", "aten::convolution"): (1, 26),
        ("g_path", "aten::empty"): (1, 4),
        ("between phases", "aten::add"): (1, 10),
    }
    assert result.idle_us == 50


def test_a_trace_without_iterations_is_refused() -> None:
    with pytest.raises(ValueError, match="no range 'iteration'"):
        summarize([event("cpu_op", "aten::add", 0, 1)])


def test_profiles_the_iterations_that_were_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    profiler = IterationProfiler(2, first=1, folder=tmp_path, say=said.append)
    for _ in range(4):
        assert profiler.is_done == (profiler.count >= 3)
        with profiler.iteration(), record_function("d_main"):
            torch.ones(8, 8) @ torch.ones(8, 8)
            time.sleep(0.02)
    text = (tmp_path / "profile.txt").read_text()
    assert said[0].startswith(text) and len(said) == 1
    assert text.startswith("2 iterations") and "d_main" in text and "x2      aten::mm" in text
    assert "waits of the host for the device: none" in text
    assert (tmp_path / "trace.json.gz").stat().st_size > 0


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_run_that_ends_within_the_window_leaves_what_was_traced(
    iterations: int, error: type[BaseException] | None, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(error) if error else nullcontext():
        with IterationProfiler(5, first=1, folder=tmp_path / "profile", say=said.append) as profiler:
            for _ in range(iterations):
                with profiler.iteration():
                    torch.ones(8, 8) @ torch.ones(8, 8)
            if error:
                raise error
    assert not torch.autograd._profiler_enabled(), "Python would crash at its exit"
    expected = ["profile.txt", "trace.json.gz"] if iterations == 3 and error is not RuntimeError else []
    assert sorted(path.name for path in tmp_path.glob("profile/*")) == expected
    ended = "after 2 of the 5 iterations to trace" if expected else "before iteration 2, the first to trace; no trace"
    assert said[-1:] == ([] if error is RuntimeError else [f"profile: the run ended {ended}"])
    assert not expected or said[0].startswith("2 iterations, ")


@pytest.fixture
def python_hears_ctrl_c() -> Iterator[None]:
    """Which it does not in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["train", "profile"])
def test_ctrl_c_within_the_window(
    command: str,
    tmp_path: Path,
    tiny_options: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    python_hears_ctrl_c: None,
) -> None:
    run_iteration, calls = Training.run_iteration, []

    def interrupted(self: Training, reals: object) -> None:
        run_iteration(self, reals)
        calls.append(reals)
        if len(calls) == self.settling_iterations + 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "run_iteration", interrupted)
    assert main([command, *tiny_options(tmp_path, run__kimg=1, perf__profile=9)]) == 3
    text = (tmp_path / "profile" / "profile.txt").read_text()
    said = capsys.readouterr()
    assert text in said.out + said.err and "of the 9 iterations to trace" in said.out + said.err
    assert not torch.autograd._profiler_enabled()
