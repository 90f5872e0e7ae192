"""What the table of evaluations in line and beside training makes of the rows of a run."""

import pytest

from bench.proofs.beside import Run, report, run_of_rows, table_rows


def rows(fd: float) -> list[dict]:
    speeds = [1.0, 100.0, 80.0, 120.0, 60.0]  # of ticks 1 to 5; evaluated after 2 and 4
    ticks = [{"kind": "tick", "tick": tick, "images_per_sec": speed} for tick, speed in enumerate(speeds, start=1)]
    evaluated = [
        {"kind": "metrics", "kimg": kimg, "metric/fd_digits": fd, "metric/seconds": sec}
        for kimg, sec in ((0.0, 50.0), (8.0, 10.0), (16.0, 12.0))
    ]
    return [*ticks, *evaluated]


def test_ticks_after_an_evaluation_are_held_against_the_others() -> None:
    run = run_of_rows(rows(4.0), 200.0)
    assert (run.after, run.others) == (pytest.approx(70), pytest.approx(110))
    assert (run.evaluation_sec, run.wall_sec) == (11.0, 200.0)
    assert run.values == {kimg: {"metric/fd_digits": 4.0} for kimg in (0.0, 8.0, 16.0)}


def test_other_values_are_told() -> None:
    runs = {
        "inline": [run_of_rows(rows(4.0), 200.0)] * 2,
        "beside": [run_of_rows(rows(fd), sec) for fd, sec in ((4.0, 180.0), (4.5, 190.0))],
    }
    inline, beside = table_rows(runs, threads=1)
    assert inline["values_equal"] and not beside["values_equal"]
    assert beside["wall_sec"] == 185.0
    text = report([inline, beside], 0.12, "about", "command")
    assert "| 1 | beside | 70.0 | 110.0 | 11.0 | 185.0 | NO |" in text and "100 minutes" in text


def test_the_same_values_are_equal() -> None:
    runs: dict[str, list[Run]] = {way: [run_of_rows(rows(4.0), 200.0)] for way in ("inline", "beside")}
    assert all(row["values_equal"] for row in table_rows(runs, threads=2))
