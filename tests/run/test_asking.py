"""A training is asked for something from another shell: it does it soon, or refuses, and nobody waits for nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_lock import RunLock
from smartfast.core.run_log import read_rows
from smartfast.run import asking
from smartfast.run.asking import KINDS, Requests, ask, drop_requests, wanted_kinds
from smartfast.run.training import Training

Options = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LOOK_SEC", 0.0)
    monkeypatch.setattr(asking, "_POLL_SEC", 0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", *tiny_options(folder)]) == 0
    return load_newest(folder).state


def ask_at(patch: pytest.MonkeyPatch, images: int, run_dir: Path, *kinds: str) -> None:
    """Have another thread ask, one after the other, once a run has seen `images` images, and wait for the asking."""
    run_iteration = Training.run_iteration

    def called(self: Training, reals: Any) -> None:
        run_iteration(self, reals)
        if self.images == images:
            for kind in kinds:
                threading.Thread(target=main, args=[["ask", str(run_dir), kind]], daemon=True).start()
            deadline = time.monotonic() + 30
            while len(list((run_dir / asking.FOLDER).glob("*.ask"))) < len(kinds) and time.monotonic() < deadline:
                time.sleep(0.01)

    patch.setattr(Training, "run_iteration", called)


def wait_for(printed: Callable[[], str], text: str) -> str:
    """What is printed until the thread that has asked says `text`."""
    found, deadline = "", time.monotonic() + 30
    while text not in found and time.monotonic() < deadline:
        time.sleep(0.01)
        found += printed()
    return found


def test_what_is_asked_is_done_in_the_next_iteration_and_changes_no_number(
    tmp_path: Path,
    tiny_options: Options,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    ask_at(monkeypatch, 24, tmp_path, "sample", "save", "evaluate")
    options = tiny_options(tmp_path, metrics__every_ticks=100, metrics__samples=65, run__snapshot_ticks=100)
    assert main(["train", *options]) == 0
    printed = wait_for(lambda: capsys.readouterr().out, "evaluate: ")
    assert "sample: fakes000000.024.png at 0.024 kimg" in printed and (tmp_path / "fakes000000.024.png").is_file()
    assert "save: saved at 0.024 kimg" in printed
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000.024", "000000.064"]
    kimg = [row["kimg"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "metrics"]
    assert kimg == [0, 0.024, 0.064]
    found = load_newest(tmp_path).state
    assert [key for key, value in uninterrupted.items() if not torch.equal(value, found[key])] == []
    ticks = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "tick"]
    assert ticks[1]["maintenance_sec"] > ticks[2]["maintenance_sec"], "the evaluation is no time of training"
    assert main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: complete" and lines[1].startswith("progress: 0.1 of 0.064 kimg (100 %), tick 4")
    assert any(line.startswith("metrics at 0.1 kimg: fd_digits") for line in lines)


def test_asked_to_stop_it_saves_and_ends(
    tmp_path: Path,
    tiny_options: Options,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        ask_at(patch, 24, tmp_path, "stop")
        assert main(["train", *tiny_options(tmp_path, run__snapshot_ticks=100)]) == 3
    printed = wait_for(lambda: capsys.readouterr().out, "stop: ")
    assert "stop: saved at 0.024 kimg" in printed and "smartfast ask stop: saved at 0.024 kimg" in printed
    assert main(["train", *tiny_options(tmp_path, run__snapshot_ticks=100)]) == 0
    found = load_newest(tmp_path).state
    assert [key for key, value in uninterrupted.items() if not torch.equal(value, found[key])] == []
    assert not (tmp_path / asking.FOLDER).exists()


def test_what_cannot_be_done_is_refused_with_a_line(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ask_at(monkeypatch, 24, tmp_path, "evaluate")
    assert main(["train", *tiny_options(tmp_path)]) == 0
    assert "evaluate: refused: metrics.every_ticks is 0" in wait_for(lambda: capsys.readouterr().out, "evaluate: ")


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_asked_where_no_training_runs(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["ask", str(tmp_path), kind]) == 2
    assert "no training runs in this folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["{run}"], ["{run}", "dance"], ["{run}", "save", "--wait_sec=-1"]])
def test_bad_requests_are_said(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["ask", *(argument.format(run=tmp_path) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("smartfast: error: ")


@pytest.fixture
def held(tmp_path: Path) -> RunLock:
    lock = RunLock(tmp_path)
    lock.acquire()
    yield lock
    lock.release()


def test_a_training_that_ends_without_an_answer_is_not_waited_for(
    held: RunLock, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    threading.Timer(0.2, held.release).start()
    assert main(["ask", str(tmp_path), "save"]) == 2
    assert "has ended without an answer" in capsys.readouterr().err
    assert not list((tmp_path / asking.FOLDER).glob("*"))


def test_what_is_not_answered_in_time_is_left_to_the_training(held: RunLock, tmp_path: Path) -> None:
    lines: list[str] = []
    assert ask(tmp_path, "save", wait_sec=0.05, say=lines.append)
    assert lines == ["save: no answer in 0.05 s; the training takes it when it has done what it is at"]
    assert wanted_kinds(Requests(tmp_path).look()) == ["save"]


def test_requests_of_an_earlier_training_are_not_this_ones(held: RunLock, tmp_path: Path) -> None:
    ask(tmp_path, "stop", wait_sec=0.0, say=lambda line: None)
    drop_requests(tmp_path)
    assert Requests(tmp_path).look() == 0


@pytest.mark.parametrize("content", [b"", b"dance", b"\xff\xfe" * 1000, b"save " * 100])
def test_odd_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / asking.FOLDER).mkdir()
    (tmp_path / asking.FOLDER / "1.ask").write_bytes(content)
    (tmp_path / asking.FOLDER / "folder.ask").mkdir()
    requests = Requests(tmp_path)
    assert requests.look() == 0
    assert (tmp_path / asking.FOLDER / "1.answer").read_text().startswith("refused: there is no such request")


def test_looking_costs_one_system_call_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LOOK_SEC", 1.0)
    calls: list[Path] = []
    monkeypatch.setattr(asking, "_files", lambda *arguments: calls.append(arguments) or [])
    requests = Requests(tmp_path)
    start = time.monotonic()
    while len(calls) < 2 and time.monotonic() < start + 5:
        requests.look()
    assert time.monotonic() - start >= 1.0
    assert Requests(tmp_path, is_taken=False).look() == 0 and len(calls) == 2


@pytest.mark.slow
def test_two_processes_do_it_in_the_same_iteration(tmp_path: Path, tiny_options: Options) -> None:
    run, script = tmp_path / "run", Path(asking.__file__).parents[1] / "train.py"
    options = tiny_options(
        run, run__kimg=1000, run__snapshot_ticks=100000, metrics__every_ticks=1000, metrics__samples=65
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    with (tmp_path / "output").open("w") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([*launcher, str(script), *options], env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while "tick 2" not in (tmp_path / "output").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        for kind in ("sample", "evaluate", "save", "stop"):
            assert main(["ask", str(run), kind]) == 0, (tmp_path / "output").read_text()[-2000:]
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert "smartfast ask stop: saved at" in (tmp_path / "output").read_text()
    assert json.loads((load_newest(run).path / "checkpoint.json").read_text())["images"] > 0
