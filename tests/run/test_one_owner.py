"""Two trainings of one run folder."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.core.run_log import read_rows


def test_the_second_of_two_processes_is_turned_away_until_the_first_is_killed(
    tmp_path: Path, tiny_options: Callable[..., list[str]], capsys: pytest.CaptureFixture
) -> None:
    arguments = ["train", *tiny_options(tmp_path, run__kimg=1000, run__snapshot_ticks=1000)]
    command = [sys.executable, "-m", "smartfast.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in first.stdout:
            if line.startswith("tick"):
                break
        files = {path.name for path in tmp_path.iterdir()}
        assert main(["train", *tiny_options(tmp_path, run__kimg=0.016)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"smartfast: error: run.dir {tmp_path}: pid {first.pid} on {socket.gethostname()}")
        assert first.poll() is None and {path.name for path in tmp_path.iterdir()} == files
    finally:
        first.kill()
        first.communicate()
    assert main(["train", *tiny_options(tmp_path, run__kimg=0.016)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "taken over" in line]
    assert len(said) == 1 and f"pid {first.pid}" in said[0]
    assert [row["kimg"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0.016]
    assert not list(tmp_path.glob("*lock*"))


@pytest.mark.usefixtures("not_finite")
@pytest.mark.parametrize("end", ["error", "bad input"])
def test_the_folder_is_free_after_every_end(end: str, tmp_path: Path, tiny_options: Callable[..., list[str]]) -> None:
    run_dir = tmp_path / "run"
    ends = {
        "error": ["--run.max_bad_steps=2", "--run.kimg=1"],
        "bad input": ["--data.path=/nowhere/at/all"],
    }
    assert main(["train", *tiny_options(run_dir), *ends[end]]) == 2
    assert not list(tmp_path.rglob("*lock*"))
    assert run_dir.exists() == (end == "error")
