"""A process that was asked to end does not wait for compilers."""

import subprocess
import time
from pathlib import Path

import psutil
import torch._inductor.async_compile as async_compile

from smartfast.engine.abandoning import abandon_compilations


def test_compilers_are_ended_and_what_waits_is_dropped(tmp_path: Path) -> None:
    compiler, other = tmp_path / "g++", tmp_path / "other"
    for name in (compiler, other):
        name.symlink_to("/bin/sleep")
    started: list[subprocess.Popen] = []

    def compile_for_long() -> int:
        started.append(subprocess.Popen([compiler, "60"]))
        return started[-1].wait()

    pool = async_compile.AsyncCompile.pool()
    workers = pool._max_workers
    tasks = [pool.submit(compile_for_long) for _ in range(workers + 3)]
    bystander = subprocess.Popen([other, "60"])
    deadline = time.monotonic() + 30
    while len(started) < workers and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        while psutil.Process(started[0].pid).name() != "g++" and time.monotonic() < deadline:
            time.sleep(0.01)
        abandon_compilations()
        assert [task.cancelled() for task in tasks] == [False] * workers + [True] * 3
        assert all(task.result(30) < 0 for task in tasks[:workers])
        assert bystander.poll() is None
        assert async_compile.AsyncCompile.pool().submit(lambda: 1).result(30) == 1
    finally:
        for process in (bystander, *started):
            process.kill()
            process.wait()
