"""What is asked of a training from another shell, through its run folder: `smartfast ask`.

A request is a file `requests/<token>.ask` that names one of KINDS. The training, which looks once a second, answers
with a line in `requests/<token>.answer`, which the one who has asked deletes.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from smartfast.core.files import write_atomically
from smartfast.core.run_lock import is_held
from smartfast.errors import UserError

FOLDER = "requests"
KINDS = {
    "sample": "write a sheet of samples of this moment",
    "save": "write a checkpoint of this moment",
    "evaluate": "compute the metrics of this moment",
    "stop": "save and end, as a signal does",
}
_ASK, _ANSWER = ".ask", ".answer"
_LOOK_SEC = 1.0
_POLL_SEC = 0.25
_LONGEST = 100


def drop_requests(run_dir: Path) -> None:
    """Forget what was asked of an earlier training that did not come to it."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)


class Requests:
    """Those of one training; leaving the context refuses what nobody will do any more.

    Args:
        run_dir: Run folder.
        is_taken: By this process, the main one; for the others there are none.
    """

    def __init__(self, run_dir: Path, *, is_taken: bool = True) -> None:
        self._folder, self._is_taken = run_dir / FOLDER, is_taken
        self._waiting: dict[str, str] = {}
        self._next_sec = 0.0

    def look(self) -> int:
        """What is asked, a bit for each of KINDS in their order; a system call only once a second."""
        now = time.monotonic()
        if self._is_taken and now >= self._next_sec:
            self._next_sec = now + _LOOK_SEC
            for path in _files(self._folder, _ASK):
                self._take(path)
        return sum(1 << place for place, kind in enumerate(KINDS) if kind in self._waiting.values())

    def _take(self, path: Path) -> None:
        try:
            with path.open(errors="replace") as file:
                kind = file.read(_LONGEST).strip()
            path.unlink()
        except OSError:  # withdrawn in this moment
            return
        self._waiting[path.stem] = kind
        if kind not in KINDS:
            self.answer([kind], f"refused: there is no such request, expected one of {', '.join(KINDS)}")

    def answer(self, kinds: Iterable[str], line: str) -> None:
        """Tell all who have asked for one of `kinds`."""
        wanted = set(kinds)
        for token in [token for token, kind in self._waiting.items() if kind in wanted]:
            del self._waiting[token]
            if self._folder.is_dir():
                write_atomically(self._folder / f"{token}{_ANSWER}", line.encode())

    def __enter__(self) -> "Requests":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        self._next_sec = 0.0
        self.look()
        self.answer(KINDS, "refused: the training ends in this moment")
        with contextlib.suppress(OSError):  # there is none, or an answer in it that is still to be read
            self._folder.rmdir()


def wanted_kinds(bits: int) -> list[str]:
    """The kinds that `Requests.look` means."""
    return [kind for place, kind in enumerate(KINDS) if bits >> place & 1]


def ask(run_dir: Path, kind: str, *, wait_sec: float, say: Callable[[str], None]) -> bool:
    """Ask something of the training that owns a run folder, and wait for its answer.

    Args:
        run_dir: Run folder.
        kind: One of KINDS.
        wait_sec: After which the request is left to the training and this returns.
        say: Receives the answer.

    Returns:
        Whether it was done, or will be; False where the training has refused.

    Raises:
        UserError: No training runs there, or it has ended without an answer; the request is withdrawn.
    """
    if not is_held(run_dir):
        raise UserError(f"{run_dir}: no training runs in this folder, expected one that can be asked to {kind}")
    token = uuid.uuid4().hex
    asked, answered = (run_dir / FOLDER / f"{token}{suffix}" for suffix in (_ASK, _ANSWER))
    try:
        write_atomically(asked, kind.encode())
    except OSError as error:
        raise UserError(f"{asked.parent}: expected a folder that can be written ({error.strerror})") from error
    deadline = time.monotonic() + wait_sec
    try:
        while not answered.is_file():
            if not is_held(run_dir) and not answered.is_file():
                raise UserError(f"{run_dir}: the training has ended without an answer; {kind} was not done")
            if time.monotonic() > deadline:
                say(f"{kind}: no answer in {wait_sec:g} s; the training takes it when it has done what it is at")
                return True
            time.sleep(_POLL_SEC)
    except BaseException:
        asked.unlink(missing_ok=True)
        raise
    line = answered.read_text()
    answered.unlink(missing_ok=True)
    say(f"{kind}: {line}")
    return not line.startswith("refused")


def _files(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix)
    except OSError:  # nobody has asked yet
        return []
