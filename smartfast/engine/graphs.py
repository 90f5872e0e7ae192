"""CUDA graphs: a step over static tensors becomes one replay.

A step reads and writes only tensors that stay where they are, and nothing else outlives it: then graphs can share a
memory pool as long as they run one after another.
"""

import contextlib
import time
import warnings
from collections.abc import Callable

import torch

Step = Callable[[], None]

WARM_UP_RUNS = 3
"""Ordinary runs before a capture: compilation, cuDNN's choice of algorithms and workspaces come first."""


class CudaGraphs:
    """Captures the steps of a run, which share a side stream and a memory pool.

    Args:
        device: The GPU.

    Attributes:
        total_sec: Spent on captures.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.total_sec = 0.0

    def run(self, step: Step) -> None:
        """Run a step on the side stream, after all work before it and before all work behind it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            step()
        current.wait_stream(self.stream)

    def record(self, step: Step) -> Step:
        """Capture a step, which does not run it; returns what replays it."""
        start_sec, current = time.perf_counter(), torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog, loaders that pin memory) call CUDA meanwhile; only this thread is captured.
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                step()
        except Exception:
            torch.cuda.set_stream(current)
            self._abandon_pool()
            raise
        finally:
            self.total_sec += time.perf_counter() - start_sec
        return graph.replay

    def _abandon_pool(self) -> None:
        """After a capture that failed: PyTorch leaves the pool open, and every later capture into it would fail."""
        with contextlib.suppress(RuntimeError):  # it was closed, where the step itself failed before the capture did
            torch._C._cuda_endAllocateToPool(self.stream.device_index, self.pool)
        self.pool = torch.cuda.graph_pool_handle()


class CapturedStep:
    """A step that runs WARM_UP_RUNS times, then is captured and from then on replayed.

    Each call is one run of the step, captured or not. Where capturing fails, it says why, once, and the step runs as it
    is from then on.

    Args:
        name: For the message.
        step: Works on static tensors and waits for nothing.
        graphs: Records and runs it.
    """

    def __init__(self, name: str, step: Step, graphs: CudaGraphs) -> None:
        self.name, self.step, self.graphs = name, step, graphs
        self.runs = 0
        self.replay: Step | None = None
        self.failed = False

    def __call__(self) -> None:
        if self.replay is None and not self.failed and self.runs >= WARM_UP_RUNS:
            self._capture()
        if self.replay is not None:
            self.replay()
        else:
            self.graphs.run(self.step)
        self.runs += 1

    def abandon(self) -> None:
        """Run the step as it is from now on."""
        self.replay, self.failed = None, True

    def _capture(self) -> None:
        try:
            self.replay = self.graphs.record(self.step)
        except Exception as error:  # whatever a kernel, a library or the driver raises in a capture
            self.failed = True
            cause = error.__context__ or error  # what went wrong inside; ending the capture then fails as well
            reason = next(iter(str(cause).split("\n")), "") or type(cause).__name__
            warnings.warn(
                f"perf.cuda_graphs: {self.name} cannot be captured and runs without a CUDA graph: {reason}",
                stacklevel=2,
            )
