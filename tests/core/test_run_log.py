"""metrics.jsonl."""

from pathlib import Path

from smartfast.core.run_log import RunLog, read_rows


def test_rows_after_the_restart_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    for kimg in (1.0, 2.0, 3.0):
        log.write({"kind": "tick", "kimg": kimg})
    with log.path.open("a") as file:
        file.write('{"kind": "tick", "ki')  # killed while writing
    RunLog(tmp_path, kimg=2.0).write({"kind": "tick", "kimg": 2.5})
    assert [row["kimg"] for row in read_rows(log.path)] == [1.0, 2.0, 2.5]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    log.write({"kind": "tick", "kimg": 1.0, "loss/g_main": float("nan")})
    assert read_rows(log.path) == [{"kind": "tick", "kimg": 1.0, "loss/g_main": None}]


def test_the_last_row_of_a_kind_that_stays_is_known(tmp_path: Path) -> None:
    log = RunLog(tmp_path, kimg=0.0)
    for kind, kimg in (("metrics", 1.0), ("tick", 2.0), ("metrics", 3.0)):
        log.write({"kind": kind, "kimg": kimg})
    log = RunLog(tmp_path, kimg=2.0)
    assert (log.last_kimg("metrics"), log.last_kimg("tick"), log.last_kimg("other")) == (1.0, 2.0, None)
