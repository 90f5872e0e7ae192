"""A run folder has one owner at a time, whoever dies and however."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from smartfast.core import run_lock
from smartfast.core.run_lock import STALE_SEC, RunLock, is_held
from smartfast.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from smartfast.core.run_lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    lock, other = RunLock(tmp_path), RunLock(tmp_path)
    lock.acquire()
    with pytest.raises(UserError, match=rf"^run.dir {tmp_path}: pid {os.getpid()} on [^\n]* is using it[^\n]*$"):
        other.acquire()
    other.release()
    lock.check()
    lock.release()
    assert not list(tmp_path.iterdir())
    other.acquire()
    other.release()


def test_a_live_process_keeps_it_and_a_killed_one_loses_it(
    tmp_path: Path, holder: subprocess.Popen, capsys: pytest.CaptureFixture
) -> None:
    """Killed and not waited for: what is left in the process table is no owner."""
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match=f"pid {holder.pid} on "):
        lock.acquire()
    os.kill(holder.pid, signal.SIGKILL)
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    lock.acquire()
    (line,) = capsys.readouterr().out.splitlines()
    assert f"pid {holder.pid} on " in line and "no longer runs" in line and "taken over" in line
    lock.release()


def change(run_dir: Path, **entries: object) -> None:
    (path,) = run_dir.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@contextmanager
def beaten(run_dir: Path) -> Iterator[None]:
    """Somebody gives signs of life."""
    (path,) = run_dir.iterdir()
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(0.5):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def make_old(run_dir: Path) -> None:
    (path,) = run_dir.iterdir()
    os.utime(path, (time.time() - STALE_SEC - 1,) * 2)


def test_another_process_with_its_number_is_not_the_owner(
    tmp_path: Path, holder: subprocess.Popen, capsys: pytest.CaptureFixture
) -> None:
    (path,) = tmp_path.iterdir()
    change(tmp_path, start_sec=json.loads(path.read_text())["start_sec"] - 100)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert f"pid {holder.pid} on " in capsys.readouterr().out
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    assert not path.exists()


@pytest.mark.parametrize("entries", [{"host": "elsewhere"}, {"machine": "the same name, but another kernel"}])
def test_on_another_machine_signs_of_life_decide(
    entries: dict[str, str], tmp_path: Path, holder: subprocess.Popen, capsys: pytest.CaptureFixture
) -> None:
    os.kill(holder.pid, signal.SIGKILL)  # a number that says nothing here
    change(tmp_path, **entries)
    lock = RunLock(tmp_path)
    with beaten(tmp_path), pytest.raises(UserError, match=f"last sign of life .* counts as dead after {STALE_SEC:g} s"):
        lock.acquire()
    assert "waiting for a sign of life, at most 300 s" in capsys.readouterr().out
    make_old(tmp_path)
    lock.acquire()
    assert "without a sign of life" in capsys.readouterr().out
    lock.release()


def test_a_container_that_is_started_again_waits_for_its_own_lock_to_be_old(
    tmp_path: Path, holder: subprocess.Popen, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would count against the restarts of who supervises it."""
    os.kill(holder.pid, signal.SIGKILL)
    change(tmp_path, machine="another pid namespace")
    monkeypatch.setattr(run_lock, "STALE_SEC", 1.5)
    lock = RunLock(tmp_path)
    lock.acquire()
    waiting, taken = capsys.readouterr().out.splitlines()
    assert "waiting for a sign of life" in waiting and "is taken over" in taken
    lock.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_who_may_only_read_a_folder_learns_whether_it_is_held(tmp_path: Path) -> None:
    check_read_only(tmp_path)


def test_a_folder_on_a_read_only_file_system_can_be_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    check_read_only(tmp_path)


def check_read_only(run_dir: Path) -> None:
    lock = RunLock(run_dir)
    lock.acquire()
    lock._released.set()
    change(run_dir, host="elsewhere")
    run_dir.chmod(0o555)
    try:
        assert is_held(run_dir)
        os.utime(run_dir / "run.lock", (0, 0))
        assert not is_held(run_dir)
    finally:
        run_dir.chmod(0o755)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_lock_that_cannot_be_read_holds_until_it_is_old(content: str, tmp_path: Path) -> None:
    """It may be half written."""
    lock = RunLock(tmp_path)
    lock.acquire()
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    other = RunLock(tmp_path)
    with beaten(tmp_path), pytest.raises(UserError, match="unknown process"):
        other.acquire()
    make_old(tmp_path)
    other.acquire()
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        lock.check()
    lock.release()
    other.check()
    other.release()


def test_signs_of_life_come_while_nothing_else_does(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, beat_sec=0.01)
    lock.acquire()
    make_old(tmp_path)
    (path,) = tmp_path.iterdir()
    old = path.stat().st_mtime
    deadline = time.monotonic() + 30
    while path.stat().st_mtime == old:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


def test_who_lost_the_folder_is_told_and_leaves_it_alone(tmp_path: Path, holder: subprocess.Popen) -> None:
    """A machine that slept, or was cut off from the file system, comes back to another owner."""
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock = RunLock(tmp_path, beat_sec=0.01)
    lock.acquire()
    change(tmp_path, token="another", pid=12345)
    make_old(tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime
    with pytest.raises(UserError, match="pid 12345 on .* has taken over"):
        lock.check()
    time.sleep(0.1)  # some beats
    assert path.stat().st_mtime == before, "a sign of life for another owner"
    lock.release()
    assert path.exists()


def test_a_folder_that_nothing_was_written_to_goes_with_the_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "a" / "run")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "kept").mkdir()
    lock = RunLock(tmp_path / "kept")
    lock.acquire()
    lock.release()
    assert (tmp_path / "kept").is_dir()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=f"^run.dir {tmp_path / 'run'}: expected a folder that can be written"):
        RunLock(tmp_path / "run").acquire()


@pytest.mark.parametrize("is_made_again", [False, True])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_folder_that_is_gone_is_called_gone(is_deleted: bool, is_made_again: bool, tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    if is_deleted:
        shutil.rmtree(tmp_path / "elsewhere")
    if is_made_again:  # file systems give it the number of the one that was deleted
        (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=rf"^run.dir {tmp_path}/run: was deleted or renamed[^\n]*$"):
        lock.check()
    lock.release()
    assert (tmp_path / "run").exists() == is_made_again, "what another made is left to it"


def test_a_lock_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    lock, other = RunLock(tmp_path), RunLock(tmp_path)
    lock.acquire()
    (path,) = tmp_path.iterdir()
    path.unlink()
    lock.check()
    with pytest.raises(UserError, match=f"pid {os.getpid()} on .* is using it"):
        other.acquire()
    path.unlink()
    other.acquire()
    with pytest.raises(UserError, match="has taken over"):
        lock.check()
    lock.release()
    other.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["made", "taken over"])
def test_a_full_disk_leaves_no_half_a_lock(how: str, tmp_path: Path, holder: subprocess.Popen) -> None:
    """It would keep everybody out until it is old."""
    holder.kill()
    holder.wait()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if how == "made":
        (tmp_path / "run.lock").unlink()
        before = {}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(UserError, match="expected a folder that can be written"):
            RunLock(tmp_path).acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
