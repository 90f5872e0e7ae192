"""metrics.where beside: the same values under the same kimg, while training goes on and whatever becomes of them."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from smartfast.cli import main
from smartfast.core.best import best_of
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.run import beside
from smartfast.run.beside import EvaluationQueue
from smartfast.run.training import Training

Options = Callable[..., list[str]]
BESIDE = dict(metrics__every_ticks=1, metrics__samples=65, metrics__where="beside", run__snapshot_ticks=100)
# Stands in for the process that evaluates; argv: the request's folder.
STUB = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
kimg = float(folder.name)
assert json.loads((folder / "request.json").read_text())["device"] == "cpu"
assert (folder / "checkpoint" / "generator_ema.safetensors").is_file()
{body}
(folder / "values.json").write_text(json.dumps({{"fd_digits": 100 - kimg, "seconds": 1.0}}))
"""


def stub(patch: pytest.MonkeyPatch, body: str = "") -> None:
    patch.setattr(beside, "CHILD", (sys.executable, "-S", "-c", STUB.format(body=body)))


def evaluations(run_dir: Path) -> dict[float, dict[str, Any]]:
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "metrics"]
    return {row["kimg"]: {key: value for key, value in row.items() if key != "metric/seconds"} for row in rows}


def wait_at(patch: pytest.MonkeyPatch, images: int, until: Callable[[], bool]) -> None:
    """Let a run wait at the end of the iteration that brings it to `images`."""
    run_iteration = Training.run_iteration

    def called(self: Training, reals: Any) -> None:
        run_iteration(self, reals)
        deadline = time.monotonic() + 60
        while self.images == images and not until() and time.monotonic() < deadline:
            time.sleep(0.01)

    patch.setattr(Training, "run_iteration", called)


def evaluators() -> list[psutil.Process]:
    """Processes that evaluate for this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(f"{beside.FOLDER}/0" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("plain")
    assert main(["train", *tiny_options(folder)]) == 0
    return load_newest(folder).state


def assert_same_state(run_dir: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_newest(run_dir).state
    assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []


@pytest.mark.slow
def test_the_values_are_those_of_inline(tmp_path: Path, tiny_options: Options) -> None:
    """Before the first iteration and after the last; data kept out, channels last and all metrics."""
    changes = dict(metrics__every_ticks=100, metrics__names="[fid,kid,prc,diversity]", perf__channels_last="true")
    changes |= dict(metrics__samples=65, data__holdout=100)
    for where in ("inline", "beside"):
        assert main(["train", *tiny_options(tmp_path / where, **changes, metrics__where=where)]) == 0
    found = evaluations(tmp_path / "beside")
    assert found == evaluations(tmp_path / "inline") and list(found) == [0, 0.064]
    assert not (tmp_path / "beside" / beside.FOLDER).exists() and not evaluators()


def test_training_does_not_wait_and_one_waits_at_most(
    tmp_path: Path,
    tiny_options: Options,
    plain: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The first goes on until training has ended; of the others the last is computed."""
    last = tmp_path / beside.FOLDER / "000000.064"
    stub(monkeypatch, f"while kimg == 0 and not os.path.exists({str(last)!r}): time.sleep(0.01)")
    monkeypatch.setattr("smartfast.run.evaluations._LOOK_SEC", 0.0)
    assert main(["train", *tiny_options(tmp_path, **BESIDE)]) == 0
    found = evaluations(tmp_path)
    assert {kimg: row["metric/fd_digits"] for kimg, row in found.items()} == {0: 100, 0.064: 100 - 0.064}
    said = capsys.readouterr().out
    for kimg in ("0.016", "0.032", "0.048"):
        assert f"the evaluation at {kimg} kimg is dropped" in said
    assert "metrics at 0.000 kimg fd_digits 100  seconds 1" in said
    assert_same_state(tmp_path, plain)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(folder / 'failure.txt').write_text('no weights here'); sys.exit(1)", "no weights here"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("(folder / 'values.json').write_text('{'); sys.exit(0)", "exit status 0"),
    ],
)
def test_its_failure_ends_nothing(
    body: str,
    reason: str,
    tmp_path: Path,
    tiny_options: Options,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    stub(monkeypatch, f"if kimg:\n    {body}")
    assert main(["train", *tiny_options(tmp_path, **BESIDE | dict(metrics__every_ticks=4))]) == 0
    assert list(evaluations(tmp_path)) == [0]
    said = capsys.readouterr().out
    assert f"the evaluation at 0.064 kimg failed ({reason}); training goes on without it" in said
    assert (tmp_path / "report.html").is_file() and not (tmp_path / beside.FOLDER).exists()


def test_a_signal_ends_it_and_the_next_training_makes_up_for_it(
    tmp_path: Path, tiny_options: Options, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row comes under the kimg of its request, although the run was saved later."""
    options = tiny_options(tmp_path, **BESIDE | dict(metrics__every_ticks=2, run__keep_checkpoints=1))
    monkeypatch.setattr("smartfast.run.evaluations._LOOK_SEC", 0.0)
    with monkeypatch.context() as patch:
        stub(patch, "time.sleep(600 if kimg else 0)")
        run_iteration = Training.run_iteration

        def called(self: Training, reals: Any) -> None:
            run_iteration(self, reals)
            if self.images == 48:
                deadline = time.monotonic() + 60
                while not (tmp_path / beside.FOLDER / "000000.032").exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Training, "run_iteration", called)
        assert main(["train", *options]) == 3
    assert not evaluators() and list(evaluations(tmp_path)) == [0]
    assert load_newest(tmp_path).info["images"] == 48
    stub(monkeypatch)
    assert main(["train", *options]) == 0
    found = evaluations(tmp_path)
    assert {kimg: row["metric/fd_digits"] for kimg, row in found.items()} == {0: 100, 0.032: 99.968, 0.064: 99.936}
    assert_same_state(tmp_path, plain)


def test_a_signal_while_the_end_of_the_run_waits_for_it(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = tiny_options(tmp_path, **BESIDE | dict(metrics__every_ticks=4))
    with monkeypatch.context() as patch:
        stub(patch, f"if kimg:\n    os.kill({os.getpid()}, {int(signal.SIGUSR1)}); time.sleep(600)")
        assert main(["train", *options]) == 3
    assert "SIGUSR1: saved at 0.064 kimg" in capsys.readouterr().out.splitlines()[-1]
    assert not evaluators() and list(evaluations(tmp_path)) == [0]
    stub(monkeypatch)
    assert main(["train", *options]) == 0
    assert list(evaluations(tmp_path)) == [0, 0.064]


@pytest.mark.slow
def test_the_best_outlives_its_pruned_checkpoint(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of 32 images arrive when only the checkpoint of 64 is left."""
    stub(monkeypatch, f"while kimg == 0.032 and not os.path.exists({str(tmp_path / 'checkpoints/000000.048')!r}): pass")
    monkeypatch.setattr("smartfast.run.evaluations._LOOK_SEC", 0.0)
    settings = BESIDE | dict(metrics__every_ticks=2, run__snapshot_ticks=1, run__keep_checkpoints=1)
    wait_at(monkeypatch, 64, lambda: 0.032 in evaluations(tmp_path) or not evaluators())
    assert main(["train", *tiny_options(tmp_path, **settings, run__keep_best="fid")]) == 0
    best = best_of(tmp_path)
    assert best.kimg == 0.064 and json.loads((best.path / "checkpoint.json").read_text())["images"] == 64
    assert not (tmp_path / beside.FOLDER).exists()


def test_requests_of_an_earlier_training_are_taken_up_and_the_rest_goes(tmp_path: Path) -> None:
    queue = EvaluationQueue(tmp_path, images=0, request={}, say=print)
    for images in (8000, 16000, 24000):
        queue.add(images, lambda folder: folder.mkdir(), {"device": "cuda:7"})
    folder = tmp_path / beside.FOLDER
    (folder / "000032.000.partial").mkdir()
    (folder / "notes").mkdir()
    (folder / "000004.000").mkdir()  # without a request
    taken = EvaluationQueue(tmp_path, images=16000, request={"device": "cpu"}, say=print)
    assert taken.newest == 16000 and taken.is_busy
    assert sorted(path.name for path in folder.iterdir()) == ["000008.000", "000016.000"]
    for path in folder.iterdir():
        assert json.loads((path / beside.REQUEST).read_text()) == {"device": "cpu"}, "the devices of now"


def test_a_training_that_evaluates_inline_drops_what_was_left_to_be_evaluated_beside(
    tmp_path: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    queue = EvaluationQueue(tmp_path, images=0, request={}, say=print)
    queue.add(8000, lambda folder: folder.mkdir(), {"device": "cpu"})
    settings = BESIDE | dict(metrics__where="inline", metrics__every_ticks=0)
    assert main(["train", *tiny_options(tmp_path, **settings)]) == 0
    assert not (tmp_path / beside.FOLDER).exists()
    assert "the evaluation at 8.000 kimg is dropped: nothing evaluates beside this run" in capsys.readouterr().out


def test_requests_are_answered_while_the_end_of_the_run_waits(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who evaluates asks for a save, and goes on once it has the answer."""
    requests, told = tmp_path / "requests", tmp_path / "told"
    asks = f"""
if kimg:
    requests, answer = pathlib.Path({str(requests)!r}), pathlib.Path({str(requests)!r}) / "mine.answer"
    requests.mkdir(exist_ok=True)
    (requests / "mine.ask").write_text("save")
    while not answer.is_file():
        time.sleep(0.01)
    pathlib.Path({str(told)!r}).write_text(answer.read_text())
"""
    stub(monkeypatch, asks)
    assert main(["train", *tiny_options(tmp_path, **BESIDE | dict(metrics__every_ticks=4))]) == 0
    assert told.read_text() == "saved at 0.064 kimg"


def test_a_request_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    lines: list[str] = []
    queue = EvaluationQueue(tmp_path, images=0, request={}, say=lines.append)
    queue.add(8000, full, {})
    (line,) = lines
    assert "no evaluation at 8.000 kimg ([Errno 28] No space left on device)" in line and not queue.is_busy
