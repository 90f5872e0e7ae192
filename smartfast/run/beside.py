"""Evaluations in a process of their own while training goes on: the trainer's side of smartfast/run/evaluating.py.

A request is a folder `evaluation/<kimg>` in the run folder: `checkpoint/` with the files of that moment, request.json,
and then values.json or failure.txt. It outlives its training, so the next one goes on with what was not done.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from smartfast.core.files import write_atomically

FOLDER = "evaluation"
CHECKPOINT, REQUEST, VALUES, FAILURE = "checkpoint", "request.json", "values.json", "failure.txt"
CHILD = (sys.executable, "-m", "smartfast.run.evaluating")
_PARTIAL = ".partial"


class Evaluated(NamedTuple):
    """What became of a request: images seen, metrics (None where it failed, and why), and the files of that moment."""

    images: int
    values: dict[str, float] | None
    reason: str
    checkpoint: Path


class EvaluationQueue:
    """One evaluation at a time and at most one that waits: a newer one takes its place. Of the main process.

    Args:
        run_dir: Run folder.
        images: Of the run, so far: requests of an earlier training up to there are taken up.
        request: For the processes that evaluate those, in place of theirs: devices may be others by now.
        say: Receives a line about each request that is dropped or cannot be made.
    """

    def __init__(self, run_dir: Path, *, images: int, request: dict[str, Any], say: Callable[[str], None]) -> None:
        self._folder, self._say = run_dir / FOLDER, say
        self._arrived: deque[int] = deque()  # from any thread
        self._waiting: int | None = None
        self._running: tuple[int, subprocess.Popen] | None = None
        self._take_up(images, request)

    def _take_up(self, images: int, request: dict[str, Any]) -> None:
        """Requests of an earlier training; what it was still writing, and what lies ahead of this one, goes."""
        found = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        for folder in found:
            with contextlib.suppress(ValueError):
                of_folder = round(float(folder.name) * 1000)
                if of_folder <= images and (folder / REQUEST).is_file():
                    write_atomically(folder / REQUEST, json.dumps(request).encode())
                    self._arrived.append(of_folder)
                    continue
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def newest(self) -> int:
        """Images of the newest request that was taken up, -1 without one."""
        return max(self._arrived, default=-1)

    def add(self, images: int, fill: Callable[[Path], None], request: dict[str, Any]) -> None:
        """Ask for an evaluation; any thread may.

        Args:
            images: That the network has seen.
            fill: Makes a folder with its files.
            request: For the process that evaluates, JSON values.
        """
        folder = self._of(images)
        partial = folder.with_name(f"{folder.name}{_PARTIAL}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            fill(partial / CHECKPOINT)
            write_atomically(partial / REQUEST, json.dumps(request).encode())
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except OSError as error:
            self._say(f"metrics: no evaluation at {images / 1000:.3f} kimg ({error}); training goes on without it")
            return
        self._arrived.append(images)

    def look(self) -> Evaluated | None:
        """Start what waits, where nothing runs; what has ended since the last look, None = nothing."""
        done = self._collect()
        while self._arrived:
            if self._waiting is not None:
                at = f"the evaluation at {self._waiting / 1000:.3f} kimg"
                self._say(f"metrics: {at} is dropped: an older one is still going on, and a newer one waits")
                shutil.rmtree(self._of(self._waiting), ignore_errors=True)
            self._waiting = self._arrived.popleft()
        if self._running is None and self._waiting is not None:
            # A session of its own: what reaches the group of the training is the training's to act on.
            command = [*CHILD, str(self._of(self._waiting)), str(os.getpid())]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            self._running, self._waiting = (self._waiting, process), None
        return done

    def _collect(self) -> Evaluated | None:
        if self._running is None or self._running[1].poll() is None:
            return None
        (images, process), self._running = self._running, None
        folder = self._of(images)
        try:
            return Evaluated(images, json.loads((folder / VALUES).read_text()), "", folder / CHECKPOINT)
        except (OSError, ValueError):
            return Evaluated(images, None, _reason(folder, process.returncode), folder / CHECKPOINT)

    def forget(self, done: Evaluated) -> None:
        """Delete a request that was answered for."""
        shutil.rmtree(self._of(done.images), ignore_errors=True)

    @property
    def is_busy(self) -> bool:
        """Whether anything runs or waits."""
        return self._running is not None or self._waiting is not None or bool(self._arrived)

    def close(self) -> None:
        """End what runs; its request, and the one that waits, stay for the next training."""
        if self._running is not None:
            _, process = self._running
            process.kill()
            process.wait()
            self._running = None
        with contextlib.suppress(OSError):  # there is none, or something stays
            self._folder.rmdir()

    def _of(self, images: int) -> Path:
        return self._folder / f"{images / 1000:010.3f}"


def drop_evaluations(run_dir: Path, say: Callable[[str], None]) -> None:
    """Delete what an earlier training left to be evaluated beside it: this one evaluates nothing beside itself."""
    for folder in sorted((run_dir / FOLDER).glob("[0-9]*.[0-9][0-9][0-9]*")):
        if (folder / REQUEST).is_file() and not folder.name.endswith(_PARTIAL):
            at = f"the evaluation at {folder.name.lstrip('0')} kimg"
            say(f"metrics: {at} is dropped: nothing evaluates beside this run")
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is none, or something else is in it
        (run_dir / FOLDER).rmdir()


def _reason(folder: Path, status: int) -> str:
    """Why a process has left no values."""
    try:
        return (folder / FAILURE).read_text()
    except OSError:
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
