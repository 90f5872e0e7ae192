"""Signals that ask a run to end, and the launcher whose death does."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from smartfast.errors import UserError

# Those that a batch system, a terminal or a person sends; not every platform has each.
_SIGNALS = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, n)]
LAUNCHER_PID = "SMARTFAST_LAUNCHER_PID"
"""Set by `smartfast study`, which may be gone before the process that it has started has read this."""
_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")  # set by torchrun, `accelerate launch`
_AGREEMENT_SEC = 1.0
_MAX_ITERATIONS = 64


class Interrupted(KeyboardInterrupt):
    """The run was asked to end; its text is the signal's name."""


class Interruption:
    """A context manager inside which the first signal raises Interrupted or is noted; all others change nothing.

    Attributes:
        may_stop: Whether nothing would be lost now, so that the signal raises; where it would, `asked` tells of it.
    """

    def __init__(self) -> None:
        self.may_stop: Callable[[], bool] = lambda: True
        self._name: str | None = None
        self._has_raised = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._calls, self._every, self._agreed_sec = 0, 1, time.perf_counter()

    def __enter__(self) -> "Interruption":
        for number in _SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # Raised inside a library's C code it may come out as any error.
        if self._has_raised and isinstance(error, Exception) and not isinstance(error, UserError):
            raise Interrupted(self._name) from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._name is None:
            self._name = signal.Signals(number).name
            self._has_raised = self.may_stop()
            if self._has_raised:
                raise Interrupted(self._name)

    def asked(self, device: torch.device, *, now: bool = False) -> str | None:
        """The name of the signal that asks to stop; every process, each of which has to call this, gets the same.

        A signal may reach one of several processes first. They compare notes about once a second, and here if `now`.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self._name
        self._calls += 1
        if self._calls < self._every and not now:
            return None
        sec = (time.perf_counter() - self._agreed_sec) / self._calls
        notes = torch.tensor([signal.Signals[self._name] if self._name else 0, sec], device=device)
        dist.all_reduce(notes, dist.ReduceOp.MAX)
        number, sec = notes.tolist()
        self._every = max(1, min(_MAX_ITERATIONS, int(_AGREEMENT_SEC / max(sec, 1e-6))))
        self._calls, self._agreed_sec = 0, time.perf_counter()
        if number:
            self._name = signal.Signals(int(number)).name
        return self._name


def watch_launcher(poll_sec: float = 1.0) -> None:
    """Have SIGTERM sent to this process once torchrun, accelerate or a study, where one started it, is gone.

    They end their processes when they end themselves, but not when they are killed.
    """
    if not any(variable in os.environ for variable in (LAUNCHER_PID, *_LAUNCHER_VARIABLES)):
        return
    launcher = int(os.environ.get(LAUNCHER_PID, os.getppid()))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(poll_sec)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()
