"""`smartfast ask`: something of a training that runs in another shell, or on another machine with the same folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smartfast.config.ranges import FilePath, Seconds, in_range
from smartfast.run.asking import ask


@dataclass(frozen=True)
class AskOptions:
    """Ask a training for something: smartfast ask RUN sample, save, evaluate or stop. It looks once a second and
    answers when it has done it. 0 is the exit status where it is done or will be, 1 where it is refused."""

    run: FilePath
    """Run folder."""
    what: Literal["sample", "save", "evaluate", "stop"]
    """sample: a sheet of samples of this moment; save: a checkpoint; evaluate: a checkpoint and its metrics; stop: save
    and end with status 3, as after a signal."""
    wait_sec: Seconds = 60.0
    """Seconds to wait for the answer; after them the request is left to the training."""


def ask_command(options: AskOptions) -> bool:
    """Ask, and print the answer.

    Returns:
        Whether it is done or will be; False where the training has refused.

    Raises:
        UserError: No training runs there, or it has ended without an answer.
    """
    options = in_range(options)
    return ask(Path(options.run), options.what, wait_sec=options.wait_sec, say=print)
