"""`smartfast status`: what it says of a run, by the files of its folder alone."""

import json
import os
import re
from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.core.run_lock import RunLock
from smartfast.tools.status import status_lines

TICK = {"kind": "tick", "kimg": 12.0, "tick": 3, "sec_per_kimg": 3.6, "time_sec": 60.0, "left_sec": 7200.0}
TICK |= {"cpu_mem_gib": 1.5, "gpu_mem_gib": 0.0}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    rows = [
        {"kind": "metrics", "kimg": 8.0, "features": "digits", "metric/fd_digits": 12.34, "metric/seconds": 3.0},
        {"kind": "warning", "kimg": 8.0, "line": "steps were skipped"},
        TICK,
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text("run: {kimg: 600.0}\nmetrics: {features: digits}\n")
    for kimg in (8, 12):
        folder = tmp_path / "checkpoints" / f"{kimg:06d}.000"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(json.dumps({"images": 1000 * kimg, "device": "NVIDIA\nH200"}))
    return tmp_path


def lines_of(run_dir: Path, age_sec: float = 12.0) -> list[str]:
    return status_lines(run_dir, now_sec=(run_dir / "metrics.jsonl").stat().st_mtime + age_sec)


def test_a_training(run_dir: Path) -> None:
    lock = RunLock(run_dir)
    lock.acquire()
    try:
        first, *lines = lines_of(run_dir)
    finally:
        lock.release()
    assert re.fullmatch(rf"{run_dir}: trains \(pid {os.getpid()} on .+\)", first)
    assert lines == [
        "progress: 12.0 of 600 kimg (2 %), tick 3, 3.60 s/kimg, 1m 00s so far, about 1h 59m 48s left, last row 12s ago",
        "metrics at 8.0 kimg: fd_digits 12.34",
        "checkpoints: 8.000, 12.000 kimg",
        r"device: NVIDIA\nH200, 1.50 GiB of main memory",
        "warning at 8.0 kimg: steps were skipped",
    ]


def test_one_that_was_stopped_and_one_that_died(run_dir: Path) -> None:
    assert lines_of(run_dir)[0] == f"{run_dir}: does not train; the same command goes on"
    assert "left" not in lines_of(run_dir)[1]
    lock = RunLock(run_dir)
    lock.acquire()
    owner = json.loads(lock.path.read_text())
    lock.release()
    (run_dir / "run.lock").write_text(json.dumps(owner | {"start_sec": owner["start_sec"] - 1000}))
    assert lines_of(run_dir)[0].startswith(f"{run_dir}: died (pid {owner['pid']} on ")


def test_broken_files_do_not_hide_the_rest(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("run: [")
    (run_dir / "checkpoints" / "000012.000" / "checkpoint.json").write_text("{")
    (run_dir / "checkpoints" / "notes").mkdir()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tick", "kimg": 16.0}\n{"kind": "metrics", "kimg": 16.0, "features": "digits"}\n{"ki')
    assert lines_of(run_dir)[1:4] == ["progress: 16.0 kimg", "metrics at 16.0 kimg: none", "checkpoints: 8.000 kimg"]


def test_what_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["status", str(tmp_path / "nothing")]) == 2
    assert "expected a run folder" in capsys.readouterr().err
