"""Signals that end a run: at once where nothing is lost, else noted; a second one changes nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from smartfast.core.interruption import Interrupted, Interruption
from smartfast.errors import UserError

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    before = handlers()
    yield
    assert handlers() == before
    signal.signal(signal.SIGHUP, hang_up)


@pytest.mark.parametrize("second", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_it_is_noted_where_something_would_be_lost_and_a_second_one_changes_nothing(
    number: signal.Signals, second: signal.Signals
) -> None:
    with Interruption() as interruption:
        interruption.may_stop = lambda: False
        assert interruption.name is None
        signal.raise_signal(number)
        interruption.may_stop = lambda: True
        signal.raise_signal(second)
        assert interruption.name == number.name


@pytest.mark.parametrize("second", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_it_ends_the_run_at_once_where_nothing_is_lost(number: signal.Signals, second: signal.Signals) -> None:
    with Interruption():
        with pytest.raises(Interrupted, match=number.name):
            signal.raise_signal(number)
        signal.raise_signal(second)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, SystemError, OSError])
def test_a_library_that_makes_another_error_of_it_does_not_hide_it(error: type[Exception]) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), Interruption():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise error("could not determine the shape of object type 'torch.storage.UntypedStorage'") from None


@pytest.mark.parametrize("is_sent", [False, True])
def test_an_error_of_the_run_stays_one(is_sent: bool) -> None:
    """What could not be saved, above all."""
    with pytest.raises(UserError if is_sent else ValueError), Interruption() as interruption:
        interruption.may_stop = lambda: is_sent
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise UserError if is_sent else ValueError


@pytest.mark.parametrize("sec", [-1.0, 0.05])
def test_time_does_what_a_signal_does(sec: float) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Interrupted, match="run.max_hours"), Interruption() as interruption:
        interruption.end_after(sec, "run.max_hours")
        time.sleep(10)
    assert signal.getsignal(signal.SIGALRM) == handler and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_time_that_is_not_over_does_nothing() -> None:
    with Interruption() as interruption:
        interruption.end_after(100, "run.max_hours")
        assert interruption.name is None
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_nohup_stays_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGUSR1)

sys.meta_path.insert(0, Finder())
from smartfast.cli import process
sys.exit(process(["train", "--run.dry_run=true"]))
"""


@pytest.mark.parametrize("module", ["jsonargparse", "torch"])
def test_a_signal_while_everything_is_imported(module: str) -> None:
    code = AT_IMPORT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "smartfast: interrupted\n")


def test_a_signal_while_python_ends_leaves_the_exit_status() -> None:
    code = "import atexit, os, sys, smartfast.cli as cli; atexit.register(os.kill, os.getpid(), {}); "
    code += "sys.exit(cli.process(['--version']))"
    for number in SIGNALS:
        assert subprocess.run([sys.executable, "-c", code.format(int(number))], capture_output=True).returncode == 0


ORPHAN = """
import os, time
from smartfast.core.interruption import watch_launcher
watch_launcher()
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", "NO_LAUNCHER"])
def test_a_process_gets_sigterm_when_its_launcher_is_gone(variable: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TORCHELASTIC_RUN_ID",)} | {variable: "no"}
    launcher = subprocess.Popen([sys.executable, "-c", PARENT, ORPHAN], env=environment, stdout=subprocess.PIPE)
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + (3 if variable == "NO_LAUNCHER" else 30)
    try:
        while runs(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert runs(pid) == (variable == "NO_LAUNCHER")
    finally:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)


WATCHING = """
import os, sys, time
from smartfast.core.interruption import end_with_parent
print(os.getpid(), flush=True)
time.sleep(float(sys.argv[1]))
end_with_parent(os.getppid() if sys.argv[2] == "alive" else 2**22, poll_sec=0.05)
time.sleep(60)
"""


@pytest.mark.parametrize("parent", ["alive", "gone before it looked"])
def test_a_process_ends_with_its_parent(parent: str) -> None:
    starting = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    starter = subprocess.Popen([sys.executable, "-c", starting, WATCHING, "0", parent], stdout=subprocess.PIPE)
    pid = int(starter.stdout.readline())
    if parent == "alive":
        time.sleep(0.5)
        assert runs(pid)
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 30
    while runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
