"""perf.compile background: training begins eagerly and goes on compiled, whatever becomes of what compiles beside."""

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
from torch import Tensor

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.agreement import Agreement
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.run import background
from smartfast.run.background import BackgroundCompilation
from smartfast.run.failures import explain
from smartfast.run.training import Training

Options = Callable[..., list[str]]
Functions = dict[str, Callable[..., Any]]
NAMES = ["g_main", "d_main", "d_r1"]
# Stands in for the process that compiles; argv: run folder, request, pid.
STUB = """
import json, os, pathlib, sys, time
folder, request = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
assert request == dict(device="cpu", process=0, processes=1, processes_here=1, switched_off={{}})
assert (folder / "config.yaml").is_file()
{body}
"""


class Uncompiled:
    """In the place of the compiler: each phase stays what it is, and is noted."""

    def __init__(self, mode: Any, say: Callable[[str], None], noted: Functions) -> None:
        self.works, self.total_sec, self._noted = bool(mode), 0.0, noted

    def __call__(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if self.works:
            self._noted[name] = function
        return function


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Functions:
    """Functions that were given to the compiler, which compiles nothing."""
    noted: Functions = {}
    monkeypatch.setattr("smartfast.run.training.Compiler", lambda mode, say: Uncompiled(mode, say, noted))
    return noted


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("plain")
    assert main(["train", *tiny_options(folder)]) == 0
    return load_newest(folder).state


def stub(patch: pytest.MonkeyPatch, body: str) -> None:
    patch.setattr(background, "CHILD", (sys.executable, "-S", "-c", STUB.format(body=body)))


def wait_for_it(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have the `number`th tick wait at its end until nothing is compiled beside the training any more."""
    has_ended, calls = BackgroundCompilation.has_ended, []

    def called(self: BackgroundCompilation, agreement: Agreement) -> bool:
        calls.append(self)
        if len(calls) == number:
            self._process.wait(timeout=600)
        return has_ended(self, agreement)

    patch.setattr(BackgroundCompilation, "has_ended", called)


def rows_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == kind]


def assert_same_state(run_dir: Path, expected: dict[str, Tensor]) -> None:
    found = load_newest(run_dir).state
    assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []


def compilers(folder: Path) -> list[psutil.Process]:
    """Processes that compile beside a training of a run folder in there."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if "processes_here" in words and str(folder) in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_switch_is_said_and_changes_no_number(
    tmp_path: Path,
    tiny_options: Options,
    plain: dict[str, Tensor],
    compiled: Functions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub(monkeypatch, f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)")
    wait_for_it(monkeypatch, 2)
    run_iteration = Training.run_iteration

    def called(self: Training, reals: Any) -> None:
        assert bool(compiled) == (self.images >= 32)
        run_iteration(self, reals)
        if self.images == 24:
            (tmp_path / "go").touch()

    monkeypatch.setattr(Training, "run_iteration", called)
    assert main(["train", *tiny_options(tmp_path, perf__compile="background", run__snapshot_ticks=9)]) == 0
    said = capsys.readouterr().out
    assert "performance: eager until a process of its own has compiled every phase" in said
    assert said.count("performance: compiled from 0.032 kimg on") == 1
    ((kimg, beside_sec),) = ((row["kimg"], row["beside_sec"]) for row in rows_of(tmp_path, "compiled"))
    assert kimg == 0.032 and beside_sec > 0
    assert list(compiled) == NAMES
    assert_same_state(tmp_path, plain)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('no room', file=sys.stderr); print(file=sys.stderr); sys.exit(1)", "no room"),
        ("os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_its_failure_is_said_once_and_training_stays_eager(
    body: str,
    reason: str,
    tmp_path: Path,
    tiny_options: Options,
    plain: dict[str, Tensor],
    compiled: Functions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub(monkeypatch, body)
    wait_for_it(monkeypatch, 1)
    assert main(["train", *tiny_options(tmp_path, perf__compile="background")]) == 0
    line = f"perf.compile: phases stay eager, for what compiles beside has failed: {reason}\n"
    assert capsys.readouterr().out.count(line) == 1
    assert compiled == {} and rows_of(tmp_path, "compiled") == []
    assert_same_state(tmp_path, plain)


def test_the_end_of_a_run_and_a_signal_end_it(
    tmp_path: Path,
    tiny_options: Options,
    plain: dict[str, Tensor],
    compiled: Functions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub(monkeypatch, "time.sleep(600)")
    options = tiny_options(tmp_path, perf__compile="background")
    with monkeypatch.context() as patch:
        run_iteration = Training.run_iteration

        def called(self: Training, reals: Any) -> None:
            run_iteration(self, reals)
            if self.images == 40:
                assert len(compilers(tmp_path)) == 1
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Training, "run_iteration", called)
        assert main(["train", *options]) == 3
    assert compilers(tmp_path) == [] and load_newest(tmp_path).info["images"] == 40
    assert main(["train", *options]) == 0
    assert compilers(tmp_path) == [] and compiled == {}
    assert_same_state(tmp_path, plain)


def test_a_signal_during_the_switch_waits_for_nothing(
    tmp_path: Path, tiny_options: Options, compiled: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is on the disk by then, and no phase is waited for."""
    stub(monkeypatch, "pass")
    wait_for_it(monkeypatch, 1)

    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("went on behind the signal")

    monkeypatch.setattr(background, "warm_up", interrupted)
    options = tiny_options(tmp_path, perf__compile="background", run__snapshot_ticks=9)
    assert main(["train", *options]) == 3
    assert load_newest(tmp_path).info["images"] == 16


@pytest.mark.parametrize(("compile", "is_named"), [("background", True), ("true", False)])
def test_who_runs_out_of_memory_hears_of_the_second_training(compile: str, is_named: bool) -> None:
    config = parse_config(["--config", "digits", f"--perf.compile={compile}"])
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        line = explain(error, config)
        assert line is not None and ("perf.compile true" in line) == is_named


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from pytest import MonkeyPatch
from test_background import wait_for_it
from torch._dynamo.utils import counters
from smartfast.cli import main
wait_for_it(MonkeyPatch(), 1)
status = main(["train", *{options!r}])
print("MISSES", counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"], flush=True)
sys.exit(status)
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "phases"), [(1, 3), (2, 4)])
def test_what_was_compiled_beside_is_not_compiled_again(
    processes: int, phases: int, tmp_path: Path, tiny_options: Options
) -> None:
    """Numbers are those of the eager run but for rounding. Data kept out change shapes inside the phases.

    Each of two processes has its own beside it, and a phase that averages over them inside what is compiled.
    """
    changes: dict[str, Any] = dict(data__labels="true", data__holdout=100)
    if processes == 2:
        changes |= dict(loss__path_length_weight=2, loss__path_length_interval=4)
    assert main(["train", *tiny_options(tmp_path / "eager", **changes)]) == 0
    options = tiny_options(tmp_path / "background", perf__compile="background", **changes)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), options=options))
    launcher = [*TORCHRUN, f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("performance: compiled from 0.016 kimg on") == 1
    counts = [list(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("MISSES")]
    assert counts == [[0, phases]] * processes
    eager, other = (load_newest(tmp_path / name).state for name in ("eager", "background"))
    for key in (key for key in eager if key.startswith("ema/")):
        torch.testing.assert_close(other[key], eager[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_nothing_behind(tmp_path: Path, tiny_options: Options) -> None:
    """In the middle of the compilation; the same command goes on from the last snapshot, and compiles."""
    options = tiny_options(tmp_path / "run", perf__compile="background", run__kimg=1000, run__snapshot_ticks=10)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    training = subprocess.Popen([sys.executable, "-m", "smartfast.train", *options], env=environment)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "compiled").rglob("*.cpp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert compilers(tmp_path) and (tmp_path / "run" / "checkpoints").is_dir()
    training.kill()
    training.wait()
    while compilers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert compilers(tmp_path) == []
    kimg = load_newest(tmp_path / "run").info["images"] / 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
        wait_for_it(patch, 1)
        options = tiny_options(tmp_path / "run", perf__compile="background", run__kimg=kimg + 0.064)
        assert main(["train", *options]) == 0
    (row,) = rows_of(tmp_path / "run", "compiled")
    assert kimg < row["kimg"] <= kimg + 0.032
