"""Snapshots: a copy that training does not change, and a writer that loses nothing."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import SafetensorError

from smartfast.errors import UserError
from smartfast.run.snapshots import SnapshotWriter, copy_to_host

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_copy_is_what_the_tensors_were(device: str) -> None:
    flat = torch.randn(24, device=device)
    tensors = {
        "view": flat[:12].view(3, 4),
        "channels_last": flat.view(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "count": torch.tensor(7, device=device),
        "elsewhere": torch.randn(3),
    }
    expected = {name: value.cpu().clone() for name, value in tensors.items()}
    if device == "cuda":
        torch.cuda._sleep(100_000_000)  # the copies are queued behind this, the changes below behind the copies
    copied = copy_to_host(tensors)
    for value in tensors.values():
        value.add_(1)
    found = copied()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.device.type == "cpu" and value.is_contiguous() and value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name]), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_copying_does_not_wait_for_the_gpu() -> None:
    before = torch.zeros(1 << 20, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(500_000_000)
        copied = copy_to_host({"x": before})
        assert not torch.cuda.current_stream().query(), "the copy waited for the work before it"
        found: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: found.append(copied()["x"]))
        thread.start()
        thread.join()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found[0].is_pinned() and not found[0].any()


class Gate:
    """A write that lasts until it is let through."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.open = log, name, threading.Event()

    def __call__(self) -> None:
        assert self.open.wait(timeout=30)
        self.log.append(self.name)


def test_writes_come_in_order_and_one_at_a_time() -> None:
    log: list[str] = []
    first, second = Gate(log, "first"), Gate(log, "second")
    with SnapshotWriter() as writer:
        writer.submit("a", first)  # does not wait for its own write, else this line would never end
        writer.check()
        threading.Timer(0.05, first.open.set).start()
        writer.submit("b", second)
        assert log == ["first"]
        second.open.set()
        writer.wait()
        assert log == ["first", "second"]


def raise_(error: BaseException) -> Callable[[], None]:
    def write() -> None:
        raise error

    return write


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_failed_write_is_said_once_in_one_line(error: Exception) -> None:
    log: list[str] = []
    with SnapshotWriter() as writer:
        writer.submit("run.dir here: the snapshot at 4 kimg", raise_(error))
        with pytest.raises(UserError, match=r"^run\.dir here: the snapshot at 4 kimg .*No space left[^\n]*$"):
            writer.wait()
        writer.wait()
        writer.submit("the next", lambda: log.append("written"))
    assert log == ["written"]


def test_the_next_snapshot_a_look_and_the_end_all_tell_of_a_failure() -> None:
    with SnapshotWriter() as writer:
        writer.submit("one", raise_(OSError("full")))
        with pytest.raises(UserError, match="one"):
            writer.submit("two", lambda: None)
        failed = threading.Event()

        def fail() -> None:
            failed.set()
            raise OSError("full")

        writer.submit("three", fail)
        failed.wait()
        with pytest.raises(UserError, match="three"):  # noqa: PT012
            while True:  # the error reaches the future just after it is raised
                writer.check()
    with pytest.raises(UserError, match="four"), SnapshotWriter() as writer:
        writer.submit("four", raise_(OSError("full")))


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, ZeroDivisionError])
def test_whatever_ends_the_run_the_snapshot_is_written(error: type[BaseException]) -> None:
    log: list[str] = []
    write = Gate(log, "written")
    with pytest.raises(error), SnapshotWriter() as writer:
        writer.submit("a", write)
        threading.Timer(0.05, write.open.set).start()
        raise error
    assert log == ["written"]


def test_a_failure_behind_an_error_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="the last could not be written"), pytest.raises(ZeroDivisionError):
        with SnapshotWriter() as writer:
            writer.submit("the last", raise_(OSError("full")))
            raise ZeroDivisionError


def test_a_mistake_in_the_writing_is_not_taken_for_a_full_disk() -> None:
    with pytest.raises(ZeroDivisionError), SnapshotWriter() as writer:
        writer.submit("a", raise_(ZeroDivisionError()))


def test_thread_ends_with_the_writer(tmp_path: Path) -> None:
    with SnapshotWriter() as writer:
        writer.submit("a", lambda: os.mkdir(tmp_path / threading.current_thread().name))
    (name,) = os.listdir(tmp_path)
    assert name.startswith("snapshot") and name not in [thread.name for thread in threading.enumerate()]


def test_writing_starts_no_second_team_of_threads() -> None:
    """libgomp puts the threads of every team to sleep sooner once there are more of them than processors."""
    torch.set_num_threads(2)
    big = torch.ones(1 << 22)
    big + big  # this thread's own team
    before = psutil.Process().num_threads()
    with SnapshotWriter() as writer:
        writer.submit("a snapshot", lambda: torch.add(big, big, out=torch.empty_like(big)))
        writer.wait()
        assert psutil.Process().num_threads() <= before + 1  # the writer's
    assert torch.get_num_threads() == 2
