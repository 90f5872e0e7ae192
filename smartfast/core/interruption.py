"""SIGTERM and Ctrl-C: finish the iteration, save a checkpoint, exit."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

_AGREEMENT_ITERATIONS = 16


class Interruption:
    """A context manager that notes SIGTERM and SIGINT instead of dying; a second Ctrl-C acts at once.

    With several processes a signal may reach one of them first, so they agree on stopping every 16 iterations.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.signal_name: str | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def requested(self, iteration: int) -> bool:
        """Whether to stop now; every process gets the same answer at the same iteration."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.signal_name is not None
        if iteration % _AGREEMENT_ITERATIONS:
            return False
        number = torch.tensor(signal.Signals[self.signal_name] if self.signal_name else 0, device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        if number.item():
            self.signal_name = signal.Signals(int(number.item())).name
        return number.item() > 0
