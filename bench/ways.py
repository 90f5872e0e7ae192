"""Ways to run a function that a measurement compares: compiled as the trainer compiles a phase, captured in a graph."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from bench.timing import capture, peak_bytes
from smartfast.compiling import Compiler


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
        self._replay: Callable[[], Any] | None = None

    def __call__(self) -> Any:
        if self._replay is None:
            self.peak_bytes = peak_bytes(self._capture, self.device)
        assert self._replay is not None
        return self._replay()

    def _capture(self) -> None:
        self._replay = capture(self.call, self.device)
