"""Standard output and error that may be closed before the program ends: `| head`, a terminal that is gone."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


@contextmanager
def hang_up_when_closed() -> Iterator[None]:
    """Make output that cannot be written any more a hang-up (SIGHUP) instead of an error; the rest goes nowhere.

    Lines also go out one by one where nobody reads them at a terminal.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Stream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def send_nowhere(stream: TextIO) -> None:
    """What is still in the buffer of a stream and what else is written to it goes nowhere, also when Python exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Stream:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError:
            send_nowhere(self._stream)
            os.kill(os.getpid(), signal.SIGHUP if hasattr(signal, "SIGHUP") else signal.SIGTERM)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def one_line_warning(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, without the place in the program that gave it: for `warnings.formatwarning`."""
    return f"smartfast: warning: {' '.join(str(message).split())}\n"
