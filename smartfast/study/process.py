"""One cell's `smartfast train` process, restarted where its budget asks for that, and the record of it."""

import dataclasses
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

from smartfast.core.interruption import LAUNCHER_PID
from smartfast.core.run_log import RunLog
from smartfast.study.cell import LOG, Record, fault_of, last_line, progress, reached_kimg, read_record, write_record
from smartfast.study.plan import Cell
from smartfast.study.values import Budget

TRAIN = (sys.executable, "-m", "smartfast", "train")
_INTERRUPTED = 3  # exit status of `smartfast train` that has saved everything and is not done
_LOOK_SEC = 1.0

Outcome = Literal["complete", "failed", "interrupted"]


class CellProcess:
    """A training that has been started.

    Args:
        cell: Which one.
        folder: Its run folder.
        options: Those of `smartfast train` that the cell is.
        budget: Its images, or the seconds of training after which it is ended and evaluated where it stands.
        threads: CPU threads.
        environment: Variables beside this process's own.
        commit: Of the code, for the record.
        train: The command in front of the options.
    """

    def __init__(
        self,
        cell: Cell,
        folder: Path,
        options: Sequence[str],
        *,
        budget: Budget,
        threads: int,
        environment: Mapping[str, str],
        commit: str,
        train: Sequence[str] = TRAIN,
    ) -> None:
        self.cell, self.folder, self._budget, self._train = cell, folder, budget, train
        self._threads, self._environment = threads, environment
        self._is_told_to_end = self._is_last = False
        self._next_look_sec = 0.0
        self.start_sec = time.monotonic()
        before = read_record(folder)
        self._wall_sec = before.wall_sec if before and before.is_of(options, budget.seconds) else 0.0
        self.record = Record(
            status="interrupted",
            arm=cell.arm,
            seed=cell.seed,
            options=tuple(options),
            command=shlex.join(["smartfast", "train", *options]),
            seconds=budget.seconds,
            wall_sec=self._wall_sec,
            commit=commit,
            machine=f"{platform.node()}, {platform.machine()}, {threads} threads",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_record(folder, self.record)
        self._process = self._start()

    def _start(self) -> subprocess.Popen:
        command = [*self._train, *self.record.options, f"--perf.cpu_threads={self._threads}"]
        kimg = reached_kimg(self.folder)
        RunLog(self.folder, kimg=-1.0 if kimg is None else kimg)  # what was trained behind the checkpoint is lost
        self._is_last = kimg is not None and self._is_spent()
        if self._is_last:  # what is left is the evaluation of the images that it has seen
            command.append(f"--run.kimg={kimg}")
        with (self.folder / LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment | {LAUNCHER_PID: str(os.getpid())},
                start_new_session=True,  # Ctrl-C reaches the worker, which tells its trainings
            )

    def poll(self) -> Outcome | None:
        """What became of it, noted in the folder; None while it goes on."""
        status = self._process.poll()
        if status is None:
            self._look_at_budget()
            return None
        if status == _INTERRUPTED and not self._is_told_to_end and not self._is_last and self._is_spent():
            self._process = self._start()
            return None
        error = ""
        if status != 0 and status != _INTERRUPTED and not self._is_told_to_end:
            error = last_line(self.folder) if status > 0 else f"ended by {signal.Signals(-status).name}"
        if status == 0:
            error = fault_of(self.folder, self._budget.kimg)
        outcome: Outcome = "failed" if error else "complete" if status == 0 else "interrupted"
        wall_sec = self._wall_sec + time.monotonic() - self.start_sec
        self.record = dataclasses.replace(self.record, status=outcome, error=error, wall_sec=round(wall_sec, 2))
        write_record(self.folder, self.record)
        return outcome

    @property
    def has_ended(self) -> bool:
        """Whether no process of it runs, noted or not."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Ask the training to save and end, once."""
        if not self._is_told_to_end:
            self._is_told_to_end = True
            self._process.terminate()

    def _look_at_budget(self) -> None:
        if self._is_last or time.monotonic() < self._next_look_sec:
            return
        self._next_look_sec = time.monotonic() + _LOOK_SEC
        if self._is_spent():
            self._process.terminate()  # a second signal changes nothing

    def _is_spent(self) -> bool:
        seconds = self._budget.seconds
        return seconds is not None and progress(self.folder)[1] >= seconds


def gpus() -> list[str]:
    """The GPUs that trainings may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def commit() -> str:
    """The commit of this code, with -dirty where files differ; empty where it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
