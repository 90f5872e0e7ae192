"""perf.compile background: a process of its own compiles every phase while training begins eagerly.

Each process of a run has one, for code is compiled for one device; what it does is in smartfast/run/compiling.py. The
pause before training goes on compiled is then that of a start that finds everything compiled.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from accelerate import Accelerator
from accelerate.utils import gather_object

from smartfast.core.agreement import Agreement
from smartfast.core.distributed import processes_on_this_machine
from smartfast.kernels import switched_off
from smartfast.run.training import Training
from smartfast.run.warm_up import warm_up

CHILD = (sys.executable, "-m", "smartfast.run.compiling")


class BackgroundCompilation:
    """A context manager; leaving it ends the process.

    Args:
        training: Runs eagerly; its configuration is in its run folder.
        process_index: This process among the training's.
    """

    def __init__(self, training: Training, process_index: int) -> None:
        request = {
            "device": str(training.device),
            "process": process_index,
            "processes": training.num_processes,
            "processes_here": processes_on_this_machine(),
            "switched_off": switched_off(),
        }
        self._start_sec = time.monotonic()
        self._errors = tempfile.TemporaryFile()
        # A session of its own: what reaches the group of the training is the training's to act on.
        self._process = subprocess.Popen(
            [*CHILD, training.config.run.dir, json.dumps(request), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    def __enter__(self) -> "BackgroundCompilation":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers that it has started
            self._process.wait()
        self._errors.close()

    def has_ended(self, agreement: Agreement) -> bool:
        """Whether nothing is compiled any more beside any process of the training, each of which has to call this."""
        (is_busy,) = agreement.on(self._process.poll() is None, now=True)
        return not is_busy

    def take(self, training: Training, accelerator: Accelerator) -> dict[str, float]:
        """Have the training take what was compiled; where a process has nothing it stays eager, which is said.

        Returns:
            `beside_sec`, the seconds since this began; nothing where the training stays eager.
        """
        beside_sec = time.monotonic() - self._start_sec
        problem = next(filter(None, gather_object([self._problem()])), None)
        if problem is not None:
            accelerator.print(f"perf.compile: phases stay eager, for what compiles beside has failed: {problem}")
            return {}
        training.hasten()
        warm_up(training, accelerator)
        kimg = training.images / 1000
        accelerator.print(f"performance: compiled from {kimg:.3f} kimg on, {beside_sec:.0f} s after the start")
        return {"beside_sec": beside_sec}

    def _problem(self) -> str:
        """Why this process has no compiled code, empty where it has."""
        if not self._process.returncode:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"status {self._process.returncode}")
