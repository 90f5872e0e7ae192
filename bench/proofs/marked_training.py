"""`smartfast train`, telling in a file what it is doing, for bench/proofs/signals.py; changes nothing of the training.

    SMARTFAST_MARKS=FILE python bench/proofs/marked_training.py [options of smartfast train]

The file holds one line, `<phase> <images>`, of the main process: what it does, and how many images its finished
iterations have seen.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != _FOLDER]  # as smartfast/train.py

from smartfast import cli  # noqa: E402
from smartfast.core.interruption import Interruption  # noqa: E402

MARKS = "SMARTFAST_MARKS"
FUNCTIONS = {
    "smartfast.run.launch:launch": "set-up",
    "smartfast.run.opening:open_dataset": "scan",
    "smartfast.run.launch:warm_up": "compile",
    "smartfast.run.training:Training.run_iteration": "training",
    "smartfast.run.evaluations:evaluate": "evaluation",
    "smartfast.run.trainer:save_checkpoint": "snapshot",
    "smartfast.run.trainer:write_report": "report",
}
"""What is entered, and the phase until it is left."""
PHASES = (
    "python",
    "start",
    "set-up",
    "scan",
    "compile",
    "warm-up",
    "training",
    "evaluation",
    "snapshot",
    "report",
    "end",
)


class Marks:
    """Writes what the process does; a thread that writes a snapshot has a say beside the loop's."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._loop, self._beside, self.images = ["start"], "", 0

    @contextmanager
    def during(self, phase: str) -> Any:
        """That phase until the `with` block is left."""
        is_loop = threading.current_thread() is threading.main_thread()
        if is_loop:
            self._loop.append(phase)
        else:
            self._beside = phase
        self.write()
        yield
        if is_loop:
            self._loop.pop()
        else:
            self._beside = ""
        self.write()

    def write(self) -> None:
        """What there is to say now, in one system call."""
        os.pwrite(self._file, f"{self._beside or self._loop[-1]} {self.images}".ljust(40).encode(), 0)

    def end(self) -> None:
        """The command is done."""
        self._loop = ["end"]
        self.write()


def _marked(function: Callable[..., Any], phase: str, marks: Marks) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with marks.during(phase):
            return function(*arguments, **options)

    return call


def _iteration(run_iteration: Callable[..., None], marks: Marks) -> Callable[..., None]:
    @functools.wraps(run_iteration)
    def call(self: Any, reals: Any) -> None:
        has_all_run = self._has_run.issuperset(self.phases)
        with marks.during("training" if has_all_run else "warm-up"):
            run_iteration(self, reals)
            marks.images = self.images

    return call


def mark(marks: Marks) -> None:
    """Put a mark around every function of `FUNCTIONS`."""
    for place, phase in FUNCTIONS.items():
        module, _, name = place.partition(":")
        *owners, last = name.split(".")
        owner = functools.reduce(getattr, owners, import_module(module))
        function = getattr(owner, last)
        setattr(owner, last, _iteration(function, marks) if phase == "training" else _marked(function, phase, marks))


def train(arguments: Sequence[str]) -> int:
    """As `smartfast.cli.train`, with marks."""
    with Interruption() as interruption:
        marks.write()
        from smartfast.config.parse import parse_config

        config = parse_config(arguments)
        from smartfast.run import launch

        if os.environ.get("RANK", "0") == "0":
            mark(marks)
        return 0 if launch.launch(config, interruption) else cli.EXIT_INTERRUPTED


if __name__ == "__main__":
    marks = Marks(os.environ[MARKS] if os.environ.get("RANK", "0") == "0" else os.devnull)
    cli.COMMANDS["train"] = train
    status = cli.process(["train", *sys.argv[1:]])
    marks.end()
    sys.exit(status)
