"""Ways to run a function that a measurement compares: compiled as a phase is, captured in a graph, without kernels."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from bench.base.timing import Failure, Timing, peak_bytes
from smartfast import kernels
from smartfast.engine.compiling import Compiler
from smartfast.engine.graphs import WARM_UP_RUNS, CudaGraphs
from smartfast.kernels import selection

REFERENCE, COMPILED, OURS, GROUPED = "reference", "compiled reference", "ours", "grouped convolution"
COPY = "copy"
"""Names of providers that the report looks for."""


class Compiled:
    """A function that is compiled as one graph at its first call, whose derivatives may be inside.

    Args:
        name: For the messages while it is compiled.
        function: Changes nothing but through what it returns.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        def own(*arguments: Any) -> Any:  # of its own code: variants of one code are limited in number
            return function(*arguments)

        self._call = Compiler(True)(name, own)
        self._is_first = True

    def __call__(self, *arguments: Any) -> Any:
        """Raises a warning, as an exception, of what cannot be compiled: the trainer would run it as it is."""
        if not self._is_first:
            return self._call(*arguments)
        self._is_first = False
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="perf.compile")
            return self._call(*arguments)


class Captured:
    """A call that is captured in a CUDA graph at its first call, and replayed from then on.

    Args:
        call: Works on tensors that stay where they are.
        device: A CUDA device.

    Attributes:
        peak_bytes: The most memory that the call held while it was captured; None before. A replay allocates nothing.
    """

    def __init__(self, call: Callable[[], Any], device: torch.device) -> None:
        self.call, self.device = call, device
        self.peak_bytes: int | None = None
        self._replay: Callable[[], None] | None = None
        self._result: Any = None

    def __call__(self) -> Any:
        if self._replay is None:
            self._replay = self._capture()
        self._replay()
        return self._result

    def _capture(self) -> Callable[[], None]:
        graphs, recorded = CudaGraphs(self.device), []
        for _ in range(WARM_UP_RUNS):
            graphs.run(self._run)
        self._result = None
        self.peak_bytes = peak_bytes(lambda: recorded.append(graphs.record(self._run)), self.device)
        return recorded[0]

    def _run(self) -> None:
        self._result = self.call()


def with_capture(outcome: Timing | Failure, captured: Captured | None) -> Timing | Failure:
    """The outcome of a captured call, with the memory of its capture in place of the replay's none."""
    if isinstance(outcome, Failure) or captured is None:
        return outcome
    return replace(outcome, peak_bytes=captured.peak_bytes)


def by_reference(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with plain PyTorch operations in place of the project's kernels."""

    def run(*arguments: Any) -> Any:
        with kernels.use("aten"):
            return call(*arguments)

    return run


@contextmanager
def implemented_by(op: str, name: str, other: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within it, what `other` makes of an op's "aten" or "triton" implementation runs in its place."""
    plain = selection.implementation(op, name)
    selection.register(op, name, other(plain))
    try:
        yield
    finally:
        selection.register(op, name, plain)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Within it products and convolutions of float32 are as perf.precision tf32, or fp32, sets them."""
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
