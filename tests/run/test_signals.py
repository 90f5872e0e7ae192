"""A signal at any moment of a run's life: status 3, one line, everything trained is on the disk."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.run import evaluations as evaluations_module
from smartfast.run import launch as launch_module
from smartfast.run import opening as opening_module
from smartfast.run import trainer as trainer_module
from smartfast.run.training import Training

Options = Callable[..., list[str]]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
EVALUATED = dict(metrics__every_ticks=2, metrics__samples=65, run__snapshot_ticks=3)
"""Of 64 images: evaluations at 0, 32 and 64, and no snapshot asked for at any of them but the last."""


# Where the signal arrives: the function that is entered then, which of its calls, and the images that must be saved.
MOMENTS = {
    "the data are checked": (opening_module, "open_dataset", 1, None),
    "the networks are made": (launch_module, "Training", 1, None),
    "the first evaluation": (evaluations_module, "evaluate", 1, None),
    "the first iteration": (Training, "run_iteration", 1, None),
    "an iteration": (Training, "run_iteration", 3, 24),
    "an evaluation at a tick": (evaluations_module, "evaluate", 2, 32),
    "the first iteration after it": (Training, "run_iteration", 5, 32),
    "a snapshot": (trainer_module, "save_checkpoint", 2, 48),
    "the last iteration": (Training, "run_iteration", 8, 64),
    "the last snapshot": (trainer_module, "save_checkpoint", 3, 64),
    "the last evaluation": (evaluations_module, "evaluate", 3, 64),
    "the report": (trainer_module, "write_report", 2, 64),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", *tiny_options(folder, **EVALUATED)]) == 0
    return load_newest(folder).state


def send_at(
    patch: pytest.MonkeyPatch, where: Any, name: str, count: int, numbers: list[signal.Signals], *, pause_sec: float = 0
) -> None:
    """Have `numbers` sent to this process one after another when `where.name` is called for the `count`-th time."""
    original, calls = getattr(where, name), []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == count:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(pause_sec)
        return original(*arguments, **options)

    patch.setattr(where, name, called)


@pytest.mark.sample(6)
@pytest.mark.parametrize(("moment", "number"), zip(MOMENTS, itertools.cycle(SIGNALS)))
def test_everything_trained_is_saved(
    moment: str,
    number: signal.Signals,
    tmp_path: Path,
    tiny_options: Options,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    where, name, count, images = MOMENTS[moment]
    with monkeypatch.context() as patch:
        # A second signal, of the impatient, comes at once.
        send_at(patch, where, name, count, [number, signal.SIGTERM])
        assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 3
    printed = capsys.readouterr()
    newest = load_newest(tmp_path)
    saved = newest.info["images"] if newest else None
    assert saved == images or moment == "a snapshot" and saved in (56, 64)  # training goes on while a thread writes it
    if saved:
        assert f"{number.name}: saved at {saved / 1000:.3f} kimg" in printed.out.splitlines()[-1]
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.glob("*lock*"))
    assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 0
    found = load_newest(tmp_path).state
    assert [key for key, value in uninterrupted.items() if not torch.equal(value, found[key])] == []


@pytest.mark.parametrize("is_hidden", [True, False])
def test_a_signal_while_phases_are_compiled_ends_at_once_and_loses_nothing(
    is_hidden: bool,
    tmp_path: Path,
    tiny_options: Options,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """A compilation may take minutes. `is_hidden`: the compiler makes another error of what the signal raises."""
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__kimg=0.032)]) == 0
    options = tiny_options(tmp_path, **EVALUATED)

    def compiling(*arguments: object) -> None:
        try:
            signal.raise_signal(signal.SIGUSR1)
        except BaseException as error:
            raise (SystemError("returned NULL") if is_hidden else error) from None

    with monkeypatch.context() as patch:
        patch.setattr(launch_module, "warm_up", compiling)
        assert main(["train", *options]) == 3
    assert capsys.readouterr().err.endswith("smartfast: interrupted\n")
    assert load_newest(tmp_path).info["images"] == 32
    assert main(["train", *options]) == 0
    assert "stopped" not in {row["kind"] for row in read_rows(tmp_path / "metrics.jsonl")}, "nothing was cut off"
    found = load_newest(tmp_path).state
    assert [key for key, value in uninterrupted.items() if not torch.equal(value, found[key])] == []


def test_a_run_ends_by_the_clock_as_by_a_signal(
    tmp_path: Path,
    tiny_options: Options,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run_iteration = Training.run_iteration

    def slow_at_24(self: Training, reals: Any) -> None:
        run_iteration(self, reals)
        if self.images == 24:
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # the time is over here, however long the start took
            time.sleep(0.1)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_iteration", slow_at_24)
        assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__max_hours=1)]) == 3
    assert "run.max_hours: saved at 0.024 kimg" in capsys.readouterr().out.splitlines()[-1]
    assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 0
    (stopped,) = (row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "stopped")
    assert stopped["kimg"] == 0.024 and stopped["since_tick_sec"] >= 0.1, "the seconds of a tick that was cut off"
    found = load_newest(tmp_path).state
    assert [key for key, value in uninterrupted.items() if not torch.equal(value, found[key])] == []
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__kimg=1, run__max_hours=1e-6)]) == 3
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_loaders_alive(
    number: signal.Signals, tmp_path: Path, tiny_options: Options
) -> None:
    """As a terminal that hangs up and a batch system's warning arrive."""
    settings = dict(run__kimg=1000, run__snapshot_ticks=100000, data__cache="stream", data__workers=2)
    command = [sys.executable, "-u", "-m", "smartfast", "train", *tiny_options(tmp_path / "run", **settings)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for_text(tmp_path / "output", "tick 2")
        os.killpg(process.pid, number)
        assert process.wait(60) == 3, (tmp_path / "output").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
    assert f"{number.name}: saved at" in (tmp_path / "output").read_text()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signals_during_the_closing_snapshot_change_nothing(
    number: signal.Signals, tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_at(monkeypatch, Training, "run_iteration", 3, [signal.SIGTERM])
    send_at(monkeypatch, trainer_module, "save_checkpoint", 1, [number] * 5, pause_sec=0.02)
    assert main(["train", *tiny_options(tmp_path, run__snapshot_ticks=1000)]) == 3
    assert load_newest(tmp_path).info["images"] == 24
    assert not list(tmp_path.rglob("*.partial"))


def test_a_closing_snapshot_that_fails_is_not_called_saved(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    send_at(monkeypatch, Training, "run_iteration", 3, [signal.SIGTERM])
    monkeypatch.setattr(trainer_module, "save_checkpoint", fail)
    assert main(["train", *tiny_options(tmp_path, run__snapshot_ticks=1000)]) == 2
    printed = capsys.readouterr()
    assert "saved at" not in printed.out and "No space left on device" in printed.err


@pytest.mark.parametrize("images", [0, 24, 64])
def test_a_closed_pipe_costs_nothing(
    images: int, tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`smartfast train ... | head` ends as a terminal that hangs up does, unless nohup had it ignore that."""
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # also where nohup has started the tests
    reading, writing = os.pipe()
    if not images:
        os.close(reading)

    def run_iteration(self: Training, reals: Any, original: Callable = Training.run_iteration) -> None:
        original(self, reals)
        if self.images == images:
            os.close(reading)

    monkeypatch.setattr(Training, "run_iteration", run_iteration)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["train", *tiny_options(tmp_path, run__snapshot_ticks=1000)]) == 3
    newest = load_newest(tmp_path)
    assert (newest.info["images"] if newest else 0) == {0: 0, 24: 32, 64: 64}[images]  # found when a tick is printed


LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"],
}


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("launcher", "number"), [("torchrun", signal.SIGKILL), ("torchrun", signal.SIGTERM), ("accelerate", signal.SIGTERM)]
)
def test_no_process_outlives_its_launcher(
    launcher: str, number: signal.Signals, tmp_path: Path, tiny_options: Options
) -> None:
    script = Path(launch_module.__file__).parents[1] / "train.py"
    arguments = tiny_options(tmp_path / "run", run__kimg=1000, run__snapshot_ticks=100000)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*LAUNCHERS[launcher], str(script), *arguments], env=environment, stdout=output, stderr=output
        )
    ranks = []
    try:
        wait_for_text(tmp_path / "output", "tick 2")
        ranks = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive
    finally:
        process.kill()
        process.wait()
        for rank in ranks:
            if rank.is_running():
                rank.kill()
    text = (tmp_path / "output").read_text()
    assert "SIGTERM: saved at" in text, text[-2000:]
    assert load_newest(tmp_path / "run").info["images"] >= 32
    assert not list((tmp_path / "run").rglob("*.partial"))


def wait_for_text(file: Path, word: str) -> None:
    deadline = time.monotonic() + 120
    while word not in file.read_text():
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.2)
