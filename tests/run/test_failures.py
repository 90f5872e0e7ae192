"""What a machine does to a training: one line that says what to change, status 2, and what was saved stays."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.interruption import Interrupted, Interruption
from smartfast.data import RealBatch
from smartfast.errors import UserError
from smartfast.run import failures, trainer
from smartfast.run.failures import one_line_failures
from smartfast.run.training import Training

Options = Callable[..., list[str]]


def huge_tensor(run_dir: Path) -> None:
    torch.empty(1 << 50)


def huge_object(run_dir: Path) -> None:
    bytearray(1 << 60)


def gpu_memory(run_dir: Path) -> None:
    if torch.cuda.is_available():
        torch.empty(1 << 50, device="cuda")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


def full_disk(run_dir: Path) -> None:
    log = run_dir / "metrics.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")


FAILURES = {
    huge_tensor: ["memory", "optim.batch_gpu", "data.cache"],
    huge_object: ["memory", "optim.batch_gpu", "data.cache"],
    gpu_memory: ["GPU memory", "optim.batch_gpu", "perf.precision", "data.cache"],
    full_disk: ["No space left on device", "run.keep_checkpoints"],
}


@pytest.mark.parametrize("fail", FAILURES, ids=lambda function: function.__name__)
def test_one_line_and_nothing_saved_is_lost(
    fail: Callable[[Path], None],
    tmp_path: Path,
    tiny_options: Options,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_iteration(self: Training, reals: RealBatch, original=Training.run_iteration) -> None:
        original(self, reals)
        if self.images == 24:
            fail(tmp_path)

    monkeypatch.setattr(Training, "run_iteration", run_iteration)
    # The page of the snapshot before is written meanwhile, and would at times be the first to meet the log's fault.
    monkeypatch.setattr(trainer, "write_report", lambda *_, **__: None)
    assert main(["train", *tiny_options(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("smartfast: error: ")
    for word in FAILURES[fail]:
        assert word in line, line
    assert load_newest(tmp_path).info["images"] == 16
    assert not list(tmp_path.glob("*lock*"))


def test_a_trackers_thread_prints_no_traceback_of_the_run_folder(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training hears of it by the next value that it hands over."""
    printed: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: printed.append(failed.exc_value))

    def fail(error: Exception) -> None:
        raise error

    mistake = RuntimeError("a mistake")
    with one_line_failures(parse_config(tiny_options(tmp_path)), Interruption()):
        for error in (FileNotFoundError(2, "No such file", os.fsencode(tmp_path / "tensorboard" / "events")), mistake):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
    assert printed == [mistake]


def test_a_mistake_in_the_program_keeps_its_traceback(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_iteration(self: Training, reals: RealBatch) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Training, "run_iteration", run_iteration)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        main(["train", *tiny_options(tmp_path)])


def start(arguments: list[str], **environment: object) -> subprocess.Popen:
    settings = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | {k: str(v) for k, v in environment.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "smartfast.cli", "train", *arguments],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen, word: str) -> None:
    for line in process.stdout:
        if line.startswith(word):
            return
    raise AssertionError(f"{word} did not appear")


@pytest.mark.parametrize("was_asked", [False, True])
def test_a_peer_that_ends_by_the_same_signal_is_no_failure(
    was_asked: bool, tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(failures.dist, "get_world_size", lambda: 2)
    interruption = Interruption()
    interruption.number = int(signal.SIGUSR1) if was_asked else 0
    expected = pytest.raises(Interrupted, match="SIGUSR1") if was_asked else pytest.raises(UserError, match="another")
    with expected, one_line_failures(parse_config(tiny_options(tmp_path)), interruption):
        raise RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:43665")


def test_a_killed_loader_process(tmp_path: Path, tiny_options: Options) -> None:
    process = start(tiny_options(tmp_path, run__kimg=1000, data__cache="stream", data__workers=1))
    try:
        wait_for(process, "tick 2")  # the snapshot of tick 1 is being written or done
        workers = psutil.Process(process.pid).children()
        (worker,) = [child for child in workers if "resource_tracker" not in " ".join(child.cmdline())]
        os.kill(worker.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    line = output.strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in output, output
    assert line.startswith("smartfast: error: ") and "loader process" in line and "data.workers (1;" in line
    assert load_newest(tmp_path) is not None


@pytest.mark.slow
def test_a_killed_process_of_two(tmp_path: Path, tiny_options: Options) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = tiny_options(tmp_path, run__kimg=1000)
    shared = dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    processes = [start(arguments, RANK=rank, LOCAL_RANK=rank, **shared) for rank in range(2)]
    try:
        wait_for(processes[0], "tick 2")
        processes[1].kill()
        output, _ = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    line = [line for line in output.splitlines() if "smartfast: error" in line]
    assert processes[0].returncode == 2 and len(line) == 1 and "Traceback" not in output, output
    assert "another process of this run" in line[0]
    assert load_newest(tmp_path) is not None
