"""An evaluation may take longer than the training between two of them: dying in one loses no training and no row."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.run import evaluations as evaluations_module

EVALUATED = dict(metrics__every_ticks=2, metrics__samples=65, run__snapshot_ticks=2)
TIMED = ("sec", "ms/", "gib", "images_per")  # what differs between two runs of one command


class Killed(BaseException):
    """Nothing in the program expects it."""


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run, without what time and the machine change."""
    found = read_rows(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not any(part in key for part in TIMED)} for row in found]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_options: Callable[..., list[str]]) -> list[dict]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", *tiny_options(folder, **EVALUATED)]) == 0
    found = rows(folder)
    assert [row["kimg"] for row in found if row["kind"] == "metrics"] == [0, 0.032, 0.064]
    return found


@pytest.mark.parametrize(("number", "saved"), [(0, None), (1, 32), (2, 64)])
def test_death_in_an_evaluation_costs_that_evaluation_only(
    number: int,
    saved: int | None,
    tmp_path: Path,
    tiny_options: Callable[..., list[str]],
    uninterrupted: list[dict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the start, at a tick and at the end of the run."""
    remaining, on_disk = [number], []

    def die(*arguments: Any, evaluate=evaluations_module.evaluate, **options: Any) -> dict[str, float]:
        if remaining[0]:
            remaining[0] -= 1
            return evaluate(*arguments, **options)
        checkpoint = load_newest(tmp_path)
        on_disk.append(checkpoint.info["images"] if checkpoint else None)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluations_module, "evaluate", die)
        main(["train", *tiny_options(tmp_path, **EVALUATED)])
    assert on_disk == [saved], "the snapshot was not on the disk when the evaluation began"
    assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 0
    assert rows(tmp_path) == uninterrupted


KILLING = """
import os, signal, sys
from smartfast.run import evaluations
from smartfast.cli import main

def evaluate(sampler, *arguments, real=evaluations.evaluate, calls=[], **options):
    calls.append(0)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(sampler, *arguments, **options)

evaluations.evaluate = evaluate
sys.exit(main(sys.argv[1:]))
"""


def test_kill_9_in_an_evaluation(
    tmp_path: Path, tiny_options: Callable[..., list[str]], uninterrupted: list[dict]
) -> None:
    arguments = ["train", *tiny_options(tmp_path, **EVALUATED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLING, *arguments], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert load_newest(tmp_path).info["images"] == 32
    assert main(arguments) == 0
    assert rows(tmp_path) == uninterrupted


def test_a_longer_run_evaluates_where_one_that_was_planned_so_would(
    tmp_path: Path, tiny_options: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dying in the last evaluation and asking for more: 24 images are no tick, so nothing is due there any more."""
    short = EVALUATED | dict(run__kimg=0.024)
    remaining = [1]

    def die_at_the_end(*arguments: Any, evaluate=evaluations_module.evaluate, **options: Any) -> dict[str, float]:
        if not remaining[0]:
            raise Killed
        remaining[0] -= 1
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluations_module, "evaluate", die_at_the_end)
        main(["train", *tiny_options(tmp_path, **short)])
    assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 0
    assert [row["kimg"] for row in rows(tmp_path) if row["kind"] == "metrics"] == [0, 0.032, 0.064]


def test_death_in_the_last_evaluation_of_an_extended_run(
    tmp_path: Path, tiny_options: Callable[..., list[str]], uninterrupted: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of the shorter run is there already; it must not make the longer one look complete."""
    assert main(["train", *tiny_options(tmp_path, **EVALUATED | dict(run__kimg=0.032))]) == 0

    def die(*arguments: Any, **options: Any) -> dict[str, float]:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluations_module, "evaluate", die)
        main(["train", *tiny_options(tmp_path, **EVALUATED)])
    report = (tmp_path / "report.html").read_bytes()
    assert main(["train", *tiny_options(tmp_path, **EVALUATED)]) == 0
    assert rows(tmp_path) == uninterrupted
    assert (tmp_path / "report.html").read_bytes() != report


def test_a_complete_run_is_evaluated_once(
    tmp_path: Path, tiny_options: Callable[..., list[str]], capsys: pytest.CaptureFixture
) -> None:
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__kimg=0.016)]) == 0
    before = (tmp_path / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__kimg=0.016)]) == 0
    assert "is complete at 0.016 kimg" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
