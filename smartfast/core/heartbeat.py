"""Signs of life between the processes of a run: one that hangs is named, and then the others end, for a new start.

A collective operation waits for a process that hangs until its own timeout, an hour here, and then does not say for
whom. A thread here beats through the store in which the processes have met, and looks for the others' beats.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

_BEATS = 20
"""In the time after which a process counts as hanging."""
_NAMED_AFTER = 0.2
"""Of that time, before a process is named."""
_HOST, _BEAT, _LEFT = "smartfast/host/{}", "smartfast/beat/{}", "left"
_LEAVE_SEC = 2.0
EXIT_HANGING = 75
"""Exit status of a process that ends because another hangs: EX_TEMPFAIL, try again."""


class Heartbeat:
    """A context manager inside which this process beats and watches the others; with one process it does nothing.

    Args:
        store: Where the processes have met, None = there is one process.
        rank, size: This process and how many there are.
        hang_sec: Without a beat, after which a process counts as hanging and this one ends. A fifth of it after the
            last beat it is named.
        say: Receives the lines, from a thread.
        end: Ends this process with a status.

    Attributes:
        where: What this process is at, for the message.
    """

    def __init__(
        self,
        store: dist.Store | None,
        *,
        rank: int,
        size: int,
        hang_sec: float,
        say: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._store, self._rank, self._hang_sec = store, rank, hang_sec
        self._say, self._end = say, end
        self.where: Callable[[], str] = lambda: "its start"
        self._others = [other for other in range(size) if other != rank]
        self._beats = dict.fromkeys(self._others, b"")
        self._hosts: dict[int, str] = {}
        self._threads: list[threading.Thread] = []
        now = time.monotonic()
        self._heard_sec = dict.fromkeys(self._others, now)
        self._answered_sec = now
        self._told: set[int | None] = set()
        self._is_over = threading.Event()

    def __enter__(self) -> "Heartbeat":
        if self._store is not None:
            self._threads = [threading.Thread(target=t, daemon=True) for t in (self._exchange, self._watch)]
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *of_an_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(_LEAVE_SEC)  # not for ever, where the store hangs

    def _exchange(self) -> None:
        """Beat, and note when each of the others last did."""
        assert self._store is not None
        store = self._store.clone()
        store.set_timeout(timedelta(seconds=self._hang_sec))
        beat, is_over = 0, False
        while not is_over:
            is_over, beat = self._is_over.wait(self._hang_sec / _BEATS), beat + 1
            try:
                store.set(_HOST.format(self._rank), socket.gethostname())
                store.set(_BEAT.format(self._rank), _LEFT if is_over else str(beat))
                for other in self._others:
                    self._hear(store, other)
            except (dist.DistError, RuntimeError):  # the store does not answer: `_watch` tells of it
                continue
            self._answered_sec = time.monotonic()

    def _hear(self, store: dist.Store, other: int) -> None:
        if not store.check([_HOST.format(other), _BEAT.format(other)]):
            return
        self._hosts[other] = store.get(_HOST.format(other)).decode(errors="replace")
        found = store.get(_BEAT.format(other))
        if found != self._beats[other] or found == _LEFT.encode():
            self._beats[other], self._heard_sec[other] = found, time.monotonic()

    def _watch(self) -> None:
        """Tell of who is silent; a thread of its own, for the store may hang as well."""
        while not self._is_over.wait(self._hang_sec / _BEATS):
            now = time.monotonic()
            silent: dict[int | None, float] = {None: now - self._answered_sec}
            if silent[None] < _NAMED_AFTER * self._hang_sec:  # else nothing is known of the others
                silent.update((other, now - sec) for other, sec in self._heard_sec.items())
            for other, sec in silent.items():
                if sec < _NAMED_AFTER * self._hang_sec:
                    self._told.discard(other)
                elif other not in self._told:
                    self._told.add(other)
                    self._say(f"{self._name(other)} has given no sign of life for {sec:.0f} s; {self._what_follows()}")
            longest = max(silent, key=silent.__getitem__)
            if silent[longest] >= self._hang_sec and not self._is_over.is_set():
                self._say(f"{self._name(longest)} hangs: this process ends; the newest checkpoint is kept")
                self._end(EXIT_HANGING)
                return

    def _what_follows(self) -> str:
        return f"process {self._rank} is at {self.where()} and ends after {self._hang_sec:g} s of silence"

    def _name(self, other: int | None) -> str:
        if other is None:
            return f"the machine where the processes have met ({os.environ.get('MASTER_ADDR', 'unknown address')})"
        return f"process {other}" + (f" on {self._hosts[other]}" if other in self._hosts else "")
