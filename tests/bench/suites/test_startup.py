"""The start-up suite: which caches its processes find, when they are ready, and that it runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.base.family import runs_per_iteration
from bench.base.jobs import EAGER, Loop, job_config, settings
from bench.base.options import Options
from bench.base.paper_jobs import open_paper_job
from bench.base.results import Run
from bench.base.timing import Failure
from bench.suites import startup as suite_startup

CPU = torch.device("cpu")
QUICK = Options(device=CPU, quick=True, overrides=("--perf.cpu_threads=1",), budget_sec=3600)


def test_the_first_compiled_start_has_an_empty_cache_and_the_others_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def child(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "bench.suites.startup"] and command[-1] == "--optim.batch=8"
        caches = {env["TORCHINDUCTOR_CACHE_DIR"], env["TRITON_CACHE_DIR"]}
        (cache,) = map(Path, caches)
        seen.append((command[3], len(os.listdir(cache))))
        if command[3] == "compiled":
            (cache / f"code{len(seen)}").touch()
        return subprocess.CompletedProcess(command, 0, stdout=f"compiling ...\n{time.time() + 100}\n")

    with Run("startup", "test", device=CPU, folder=tmp_path) as results:
        monkeypatch.setattr(suite_startup.subprocess, "run", child)
        suite_startup.run(Options(device=CPU, overrides=("--optim.batch=8",)), results)
    assert seen == [("compiled", count) for count in range(4)] + [("eager", 4)] * 3
    found = [(row["provider"], row["cache"], row["repeats"]) for row in results.rows]
    assert found == [("compiled", "empty", 1), ("compiled", "filled", 3), ("eager", "filled", 3)]
    assert all(row["median_sec"] == pytest.approx(100, abs=1) for row in results.rows)


def test_ready_when_every_phase_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_paper_job(job_config("digits", settings("digits", QUICK)), device=CPU)
    loops: list[Loop] = []
    iterate = Loop.iterate

    def noted(loop: Loop, iterations: int) -> None:
        loops.append(loop)
        iterate(loop, iterations)

    monkeypatch.setattr(Loop, "iterate", noted)
    suite_startup.run_every_phase(job, EAGER)
    (loop,) = loops
    ran = {name.removeprefix("count/") for name in loop.training.timer.read() if name.startswith("count/")}
    assert set(runs_per_iteration(loop.training)) <= ran


def test_a_process_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    arguments = ["eager", "--config", "digits", "--device", "cpu", "--perf.cpu_threads=1"]
    outcome = suite_startup.start(arguments, str(tmp_path), repeats=1, time_left_sec=lambda: 1)
    assert outcome == Failure("not ready after 1 s")


@pytest.mark.slow
def test_a_real_process(tmp_path: Path) -> None:
    with Run("startup", "test", device=CPU, folder=tmp_path) as results:
        suite_startup.run(QUICK, results)
    (row,) = results.rows
    assert (row["provider"], row["repeats"]) == ("eager", 1) and "error" not in row
    assert "digits, compiled, filled cache" in results.path.read_text()


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    options = Options(device=CPU, quick=True, overrides=("--gan.mbstd_group=7",))
    with Run("startup", "test", device=CPU, folder=tmp_path) as results:
        suite_startup.run(options, results)
    assert results.rows[0]["error"].startswith("RuntimeError: shape '[7, 1, 1]' is invalid")
