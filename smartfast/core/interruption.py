"""Signals and the clock that ask a run to end, and the launcher whose death does. Needs no torch: a start is long."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from smartfast.errors import UserError

# Those that a batch system, a terminal or a person sends; not every platform has each.
_SIGNALS = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, n)]
_PARENT = os.getppid()  # now: what is imported next takes seconds, after which a launcher may be gone
_CLOCK = getattr(signal, "SIGALRM", None)
LAUNCHER_PID = "SMARTFAST_LAUNCHER_PID"
"""Set by `smartfast study`, which may be gone before the process that it has started has read this."""
_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")  # set by torchrun, `accelerate launch`


class Interrupted(KeyboardInterrupt):
    """The run was asked to end; its text is the signal's name, or that of the setting whose time is over."""


class Interruption:
    """A context manager inside which the first signal raises Interrupted or is noted; all others change nothing.

    Attributes:
        may_stop: Whether nothing would be lost now, so that the signal raises; where it would, `number` tells of it.
        number: The signal that asks to end, 0 while none does.
        has_raised: Whether it has raised Interrupted, of which a library may make another error.
    """

    def __init__(self) -> None:
        self.may_stop: Callable[[], bool] = lambda: True
        self.number = 0
        self.has_raised = False
        self._clock = ""
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._start_sec = time.monotonic()

    def __enter__(self) -> "Interruption":
        for number in _SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._clock:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # Raised inside a library's C code it may come out as any error.
        if self.has_raised and isinstance(error, Exception) and not isinstance(error, UserError):
            raise Interrupted(self.name) from error

    def end_after(self, sec: float, setting: str) -> None:
        """Let time do what a signal does.

        Args:
            sec: Since this was made.
            setting: What to call it.

        Raises:
            UserError: The platform has no such clock.
        """
        if _CLOCK is None:
            raise UserError(f"{setting} is set, expected none: this platform has no SIGALRM")
        self._clock = setting
        self._previous[_CLOCK] = signal.signal(_CLOCK, self._note)
        signal.setitimer(signal.ITIMER_REAL, max(self._start_sec + sec - time.monotonic(), 1e-3))

    @property
    def name(self) -> str | None:
        """What asks to end: a signal's name or a setting."""
        return self.name_of(self.number)

    def name_of(self, number: int) -> str | None:
        """`name`, were `number` the signal."""
        return (self._clock if number == _CLOCK else signal.Signals(number).name) if number else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            self.has_raised = self.may_stop()
            if self.has_raised:
                raise Interrupted(self.name)


def ignore_signals() -> None:
    """Ignore from here on what asks to end: where another process decides, or nothing is left but to end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(parent: int, poll_sec: float = 0.5) -> None:
    """End this process, whatever it does, once the process that has started it, pid `parent`, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_sec)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def watch_launcher(poll_sec: float = 1.0) -> None:
    """Have SIGTERM sent to this process once torchrun, accelerate or a study, where one started it, is gone.

    They end their processes when they end themselves, but not when they are killed.
    """
    if not any(variable in os.environ for variable in (LAUNCHER_PID, *_LAUNCHER_VARIABLES)):
        return
    launcher = int(os.environ.get(LAUNCHER_PID, _PARENT))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(poll_sec)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()
