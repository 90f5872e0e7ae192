"""One owner for a run folder: a second process would interleave its rows and prune the first one's checkpoints.

The owner's `run.lock` says host, pid and when that process started. It is created with O_EXCL, which network file
systems honour too, where flock may be local or missing. A lock whose owner is dead is taken over:

- on this machine (same host name, same boot, same pid namespace) when no process of that pid and start time runs;
- on any other, whose processes nobody here can see (a container that was started again is one), when the file's time is
  STALE_SEC old. Its owner renews it every BEAT_SEC from a thread, whatever else it does, so who wants the folder waits
  until the time moves, or is old enough. Ages are taken by the clock of the file system, not by this machine's.

An owner that was away for so long (asleep, cut off from the file system) finds another's lock at its next `check`.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from smartfast.errors import UserError

BEAT_SEC = 30.0
STALE_SEC = 300.0  # ten beats: network file systems may show a time that is a minute old
_LOOK_SEC = 1.0  # between two looks for a sign of life
_SETTLE_SEC = 0.2  # between two processes that take over the same lock, the last one to write has it
_START_TOLERANCE_SEC = 1.0


class RunLock:
    """The lock of a run folder, for the main process of a run; not held until `acquire`.

    Args:
        run_dir: Run folder; made where it is missing.
        say: Receives the line about a lock that is taken over.
        beat_sec: Time between two signs of life.
    """

    def __init__(self, run_dir: Path, *, say: Callable[[str], None] = print, beat_sec: float = BEAT_SEC) -> None:
        self.run_dir, self.path = run_dir, run_dir / "run.lock"
        self._say, self._beat_sec = say, beat_sec
        self._made_folder = False
        self._folder: tuple[int, int] | None = None
        self._held: int | None = None
        self._released = threading.Event()
        self._thread: threading.Thread | None = None
        self._owner = _this_process()

    def acquire(self) -> None:
        """Make this process the owner; may wait as long as STALE_SEC for one whose process cannot be seen from here.

        Raises:
            UserError: Another process is, or the folder cannot be written.
        """
        try:
            self._made_folder = not self.run_dir.exists()
            self.run_dir.mkdir(parents=True, exist_ok=True)
            while not self._create():
                self._take_over()
            self._hold_folder()
        except OSError as error:
            raise UserError(
                f"run.dir {self.run_dir}: expected a folder that can be written ({error.strerror})"
            ) from error
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    def _hold_folder(self) -> None:
        """Learn what folder this is; while it is open, a folder that is made in its place gets another number."""
        self._folder = _identity(self.run_dir)
        if hasattr(os, "O_DIRECTORY"):
            self._held = os.open(self.run_dir, os.O_RDONLY | os.O_DIRECTORY)

    def check(self) -> None:
        """Raise UserError if another process has taken over since `acquire`, or the folder is gone or another one."""
        if self._is_mine():
            return
        if _identity(self.run_dir) != self._folder:
            raise UserError(
                f"run.dir {self.run_dir}: was deleted or renamed while the run was going on, expected it to stay; "
                "the run stops"
            )
        if not self._create():  # else somebody had deleted the lock
            raise UserError(f"run.dir {self.run_dir}: {_name(_read(self.path))} has taken over, this process stops")

    def release(self) -> None:
        """Let others have the folder; nothing where this process is not the owner."""
        if self._thread is None:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        if self._is_mine():
            self.path.unlink(missing_ok=True)
        if self._made_folder and _identity(self.run_dir) == self._folder:
            with contextlib.suppress(OSError):  # the run has left something in it
                self.run_dir.rmdir()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _create(self) -> bool:
        try:
            file = self.path.open("x")
        except FileExistsError:
            return self._is_mine()
        with _gone_if_it_fails(self.path), file:
            file.write(json.dumps(self._owner))
        return True

    def _take_over(self) -> None:
        """Replace a dead owner's lock by this process's; raises UserError where the owner lives."""
        try:
            owner, seen_sec = _read(self.path), self.path.stat().st_mtime
            reason = self._wait_until_dead(owner, seen_sec)
        except FileNotFoundError:  # released in this moment
            return
        self._say(f"run.dir {self.run_dir}: the lock of {_name(owner)}, {reason}, is taken over")
        mine = self.path.with_name(f".{self.path.name}.{self._owner['token']}")
        with _gone_if_it_fails(mine):
            mine.write_text(json.dumps(self._owner))
            os.replace(mine, self.path)
        time.sleep(_SETTLE_SEC)

    def _wait_until_dead(self, owner: dict[str, Any] | None, seen_sec: float) -> str:
        is_said = False
        while True:
            try:
                return _why_dead(self.path, owner)
            except _CannotBeSeen:
                if self.path.stat().st_mtime != seen_sec:
                    raise
            if not is_said:
                name, most_sec = _name(owner), STALE_SEC - _age_sec(self.path)
                self._say(
                    f"run.dir {self.run_dir}: {name} may be using it, which nobody here can see: waiting for a sign "
                    f"of life, at most {most_sec:.0f} s"
                )
                is_said = True
            time.sleep(_LOOK_SEC)

    def _is_mine(self) -> bool:
        return (_read(self.path) or {}).get("token") == self._owner["token"]

    def _beat(self) -> None:
        while not self._released.wait(self._beat_sec):
            if self._is_mine():
                try:
                    os.utime(self.path)
                except OSError:  # the next one may do better
                    continue


class _CannotBeSeen(UserError):
    """The owner of a lock may live, on another machine or in another container."""


def is_held(run_dir: Path) -> bool:
    """Whether a process that lives, or may live where nobody here can see it, owns a run folder."""
    path = run_dir / "run.lock"
    if not path.exists():
        return False
    try:
        _why_dead(path, _read(path))
    except FileNotFoundError:  # released in this moment
        return False
    except UserError:
        return True
    return False


def owner_name(run_dir: Path) -> str | None:
    """Whose the lock of a run folder is, alive or not: `pid 12 on host`; None where there is no lock."""
    path = run_dir / "run.lock"
    return _name(_read(path)) if path.exists() else None


@contextlib.contextmanager
def _gone_if_it_fails(path: Path) -> Iterator[None]:
    """Half a lock, on a full disk, would keep everybody out until it is old."""
    try:
        yield
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "start_sec": _start_sec(psutil.Process()),
        "token": uuid.uuid4().hex,
    }


def _machine() -> str:
    """What tells processes that see each other's pids from all others: this boot and this pid namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: the host's name has to do
        return ""


def _start_sec(process: psutil.Process) -> float:
    """When a process started, in seconds since the boot: later changes of the clock do not move it."""
    return process.create_time() - psutil.boot_time()


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says, None where it is missing or half written."""
    try:
        owner = json.loads(path.read_text())
        return owner if {"host", "machine", "pid", "start_sec", "token"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _name(owner: dict[str, Any] | None) -> str:
    return f"pid {owner['pid']} on {owner['host']}" if owner else "an unknown process"


def _why_dead(path: Path, owner: dict[str, Any] | None) -> str:
    """Why the owner of a lock is dead, in a few words; raises UserError where it lives, or may."""
    hint = "expected a folder that no other training uses; stop that one or choose another run.dir"
    held = f"run.dir {path.parent}: {_name(owner)} is using it"
    if owner and (owner["host"], owner["machine"]) == (socket.gethostname(), _machine()):
        if _runs(owner):
            raise UserError(f"{held}, {hint}")
        return "which no longer runs"
    age_sec = _age_sec(path)
    if age_sec < STALE_SEC:
        raise _CannotBeSeen(
            f"{held} (last sign of life {age_sec:.0f} s ago, it counts as dead after {STALE_SEC:g} s), {hint}"
        )
    return f"without a sign of life for {age_sec:.0f} s"


def _runs(owner: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        is_same = abs(_start_sec(process) - owner["start_sec"]) < _START_TOLERANCE_SEC
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _age_sec(path: Path) -> float:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as now:
            now_sec = os.stat(now.name).st_mtime
    except FileNotFoundError:
        raise
    except OSError:  # who may only read has no clock but his own
        now_sec = time.time()
    return now_sec - path.stat().st_mtime
