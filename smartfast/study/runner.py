"""A worker: claims cells, keeps a `smartfast train` process for each that it has, and notes what became of it."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from smartfast.core.interruption import Interruption
from smartfast.core.run_lock import is_held
from smartfast.core.text import format_duration
from smartfast.errors import UserError
from smartfast.study.cell import progress, read_record, state_of
from smartfast.study.claims import Claim, Claims
from smartfast.study.plan import Cell, Plan, folder_of
from smartfast.study.process import TRAIN, CellProcess, commit, gpus

_POLL_SEC = 0.2
_CLAIM_SEC = 2.0  # between two looks at the storage where nothing waited
_HELD_SEC = 5.0  # before a cell is claimed again whose folder another process still had
_SAY_SEC = 60.0
_START_SEC = 10.0  # until a training that was started has its folder, and counts as running


@dataclass
class _Job:
    """A cell that this worker runs. slot: which of its jobs. beat_sec: when it last showed life."""

    claim: Claim
    process: CellProcess
    slot: int
    beat_sec: float


class Worker:
    """Runs the cells of a study that nobody else runs, until all are complete or have failed.

    Args:
        plan: The study.
        out: Its folder.
        claims: Who runs which cell.
        jobs: Processes at a time.
        threads: CPU threads of each, None = this machine's cores shared among the jobs.
        say: Takes a line about what happens.
        train: The command in front of a cell's options.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        claims: Claims,
        *,
        jobs: int = 1,
        threads: int | None = None,
        say: Callable[[str], None] = print,
        train: Sequence[str] = TRAIN,
    ) -> None:
        self.plan, self.out, self.claims, self.jobs, self.train = plan, out, claims, jobs, tuple(train)
        self.threads = threads or max(1, (psutil.cpu_count(logical=False) or 1) // jobs)
        self._say, self._gpus, self._commit = say, gpus(), commit()
        self._cells = {cell.name: cell for cell in plan.cells}
        self._jobs: list[_Job] = []
        self._held: dict[str, float] = {}
        self._said = ""
        self._next_claim_sec, self._next_say_sec = 0.0, time.monotonic() + _SAY_SEC

    def run(self) -> bool:
        """Work.

        Returns:
            Whether nothing is left to do; False after a signal, whereupon everything that was trained is saved.
        """
        self.claims.add({name: self._state(cell) != "complete" for name, cell in self._cells.items()})
        with Interruption() as interruption:
            interruption.may_stop = lambda: False
            try:
                while not interruption.name:
                    self._reap()
                    if self._claim() and not self._jobs:
                        self._say_status()
                        return True
                    if time.monotonic() >= self._next_say_sec:
                        self._say_status()
                    time.sleep(_POLL_SEC)
                self._say(f"{interruption.name}: the trainings save and end; the same command goes on from there")
            finally:
                self._end()
        return False

    def _claim(self) -> bool:
        """Start cells that wait while jobs are free; whether none is left to anybody."""
        now = time.monotonic()
        if len(self._jobs) == self.jobs or now < self._next_claim_sec:
            return False
        self._held = {name: until for name, until in self._held.items() if until > now}
        while len(self._jobs) < self.jobs:
            claim = self.claims.claim(self._cells.keys() - self._held)
            if claim is None:
                self._next_claim_sec = now + min(_CLAIM_SEC, self.claims.beat_sec)
                self.claims.add(dict.fromkeys(self._cells, False))  # what lost its worker waits again
                return not self.claims.is_open(self._cells)
            self._begin(claim)
        return False

    def _begin(self, claim: Claim) -> None:
        cell = self._cells[claim.cell]
        if self._state(cell) == "complete":
            self.claims.complete(claim)
        elif is_held(folder_of(cell, self.out)):  # by the training of a worker that was killed, which still saves
            self._held[cell.name] = time.monotonic() + _HELD_SEC
            self.claims.give_back(claim)
        else:
            slot = min(set(range(self.jobs)) - {job.slot for job in self._jobs})
            self._jobs.append(_Job(claim, self._start(cell, slot), slot, time.monotonic()))
            self._say(f"{cell.name}: {'goes on' if progress(folder_of(cell, self.out))[0] else 'started'}")

    def _start(self, cell: Cell, slot: int) -> CellProcess:
        return CellProcess(
            cell,
            folder_of(cell, self.out),
            self.plan.options(cell, self.out),
            budget=self.plan.budget,
            threads=self.threads,
            environment={"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {},
            commit=self._commit,
            train=self.train,
        )

    def _reap(self) -> None:
        """Note what has ended, and show that this worker lives."""
        for job in list(self._jobs):
            self._look_at(job)

    def _look_at(self, job: _Job) -> None:
        outcome = job.process.poll()
        if outcome is None:
            self._beat(job)
            return
        self._jobs.remove(job)
        self._next_claim_sec = 0.0
        record, name = job.process.record, job.process.cell.name
        if outcome == "complete":
            self.claims.complete(job.claim)
            self._say(f"{name}: complete in {format_duration(record.wall_sec)}")
            self._next_say_sec = min(self._next_say_sec, time.monotonic() + _START_SEC)
        elif outcome == "failed":
            self.claims.fail(job.claim, record.error)
            self._say(f"{name}: failed: {record.error}")
        else:
            self.claims.give_back(job.claim)

    def _beat(self, job: _Job) -> None:
        if time.monotonic() - job.beat_sec >= self.claims.beat_sec:
            job.beat_sec = time.monotonic()
            if not self.claims.beat(job.claim):
                self._say(f"{job.process.cell.name}: another worker has taken over, as this one was away")
                job.process.end()

    def _end(self) -> None:
        """End all trainings and wait until they have saved."""
        for job in self._jobs:
            job.process.end()
        while self._jobs:
            for job in list(self._jobs):
                with contextlib.suppress(UserError, OSError):  # the storage or the disk may be what ended the worker
                    self._look_at(job)
                if job in self._jobs and job.process.has_ended:
                    self._jobs.remove(job)
            time.sleep(_POLL_SEC)

    def _say_status(self) -> None:
        self._next_say_sec = time.monotonic() + _SAY_SEC
        line = status_line(self.plan, self.out, jobs=len(self._jobs))
        if line != self._said:
            self._said = line
            self._say(line)

    def _state(self, cell: Cell) -> str:
        return state_of(folder_of(cell, self.out), self.plan.options(cell, self.out), self.plan.budget.seconds)


def status_line(plan: Plan, out: Path, *, jobs: int = 0) -> str:
    """How many cells of a study are complete, and the time left at their pace, from the run folders.

    jobs: That the caller has, of which one may have left its folder and not ended yet.
    """
    states, spent_sec, done, left = [], 0.0, 0.0, 0.0
    for cell in plan.cells:
        folder = folder_of(cell, out)
        states.append(state_of(folder, plan.options(cell, out), plan.budget.seconds))
        if states[-1] == "failed":
            continue
        share = 1.0 if states[-1] == "complete" else share_done(plan, folder)
        record = read_record(folder)
        if states[-1] == "complete" and record is not None:
            spent_sec, done = spent_sec + record.wall_sec, done + 1
        left += 1 - share
    parts = [f"{states.count('complete')} of {len(states)} cells complete"]
    parts += [f"{states.count(state)} {state}" for state in ("failed", "running") if state in states]
    if left and done:
        parts.append(f"{format_duration(left * spent_sec / done / max(states.count('running'), jobs, 1))} left")
    return ", ".join(parts)


def share_done(plan: Plan, folder: Path) -> float:
    """How much of a cell's budget is spent, from 0 to 1."""
    kimg, sec = progress(folder)
    budget = plan.budget
    return min(1.0, sec / budget.seconds if budget.seconds is not None else kimg / (budget.kimg or 1.0))
