"""Signs of life between processes, here between threads that share a store: who falls silent is named, then left."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from smartfast.core.heartbeat import EXIT_HANGING, Heartbeat

HANG_SEC = 1.0


class Line:
    """A process's way to the store, which may be held up."""

    def __init__(self, store: dist.Store) -> None:
        self._store, self.is_open = store, threading.Event()
        self.is_open.set()

    def clone(self) -> "Line":
        return self

    def set_timeout(self, timeout: timedelta) -> None:
        assert timeout == timedelta(seconds=HANG_SEC)

    def set(self, key: str, value: str) -> None:
        self.is_open.wait()
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def check(self, keys: list[str]) -> bool:
        return self._store.check(keys)


class Process:
    """One of three with a heartbeat, as seen from outside."""

    def __init__(self, store: dist.Store, rank: int) -> None:
        self.line, self.lines, self.statuses = Line(store), [], []
        self.heartbeat = Heartbeat(
            self.line, rank=rank, size=3, hang_sec=HANG_SEC, say=self.lines.append, end=self.statuses.append
        )
        self.heartbeat.where = lambda: f"d_main at {rank}.000 kimg"


@pytest.fixture
def processes():
    store = dist.HashStore()
    processes = [Process(store, rank) for rank in range(3)]
    for process in processes:
        process.heartbeat.__enter__()
    yield processes
    for process in processes:
        process.line.is_open.set()
        process.heartbeat.__exit__()


def wait_until(condition: Callable[[], bool], sec: float = 30.0) -> None:
    deadline = time.monotonic() + sec
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_hangs_is_named_by_the_others_which_end(processes: list[Process]) -> None:
    hanging = processes.pop(1)
    wait_until(lambda: all(1 in process.heartbeat._hosts for process in processes))
    hanging.line.is_open.clear()
    wait_until(lambda: all(process.statuses for process in processes))
    for rank, process in zip((0, 2), processes, strict=True):
        named, ended = (line for line in process.lines if "process 1 on " in line)
        assert "has given no sign of life for" in named
        assert f"process {rank} is at d_main at {rank}.000 kimg and ends after 1 s of silence" in named
        assert ended.endswith("hangs: this process ends; the newest checkpoint is kept")
        assert process.statuses == [EXIT_HANGING]
    wait_until(lambda: bool(hanging.statuses))
    assert hanging.lines[-1].startswith("the machine where the processes have met (")


def test_a_pause_is_told_and_ends_nothing(processes: list[Process]) -> None:
    pausing = processes[2]
    wait_until(lambda: 2 in processes[0].heartbeat._hosts)
    pausing.line.is_open.clear()
    wait_until(lambda: any("process 2" in line for line in processes[0].lines))
    pausing.line.is_open.set()
    time.sleep(2 * HANG_SEC)
    assert processes[0].statuses == processes[1].statuses == []


def test_who_has_left_is_not_missed(processes: list[Process]) -> None:
    processes[0].heartbeat.__exit__()
    told = len(processes[1].lines)
    time.sleep(2 * HANG_SEC)
    assert [line for line in processes[1].lines[told:] if "process 0" in line] == []
    assert processes[1].statuses == processes[2].statuses == []


def test_a_process_alone_has_no_heartbeat() -> None:
    before = threading.active_count()
    with Heartbeat(None, rank=0, size=1, hang_sec=HANG_SEC, say=print):
        assert threading.active_count() == before
