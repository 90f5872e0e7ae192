"""The table of costs adds up, and isolates the score term."""

import pytest

from smartfast.report.costs import cost_rows, phase_times

PHASES = {"g_main": None, "g_score": "g_main", "g_path": None, "d_main": None, "d_r1": None}
SCORE = "g_score, beyond g_main"


def test_phase_times_add_up_and_isolate_the_score_term(tick):
    slow_start = tick(1, sec_per_tick=60.0, sec_per_kimg=30.0, **{"ms/d_main": 900.0})
    times = {time.phase: time for time in phase_times([slow_start, tick(2), tick(3)], PHASES)}
    assert list(times) == ["g_main", SCORE, "g_path", "d_main", "d_r1", "everything else"]
    assert times["d_main"].ms_per_run == pytest.approx(40.0)
    assert times["d_main"].runs_per_kimg == pytest.approx(32.0)
    assert times["g_main"].runs_per_kimg == pytest.approx(32.0)  # steps with the score term are g_main steps too
    assert times[SCORE].ms_per_run == pytest.approx(45.0)
    assert times[SCORE].sec_per_kimg == pytest.approx(4 * 0.045)
    expected = {"d_main": 1.28, "d_r1": 0.18, "g_main": 0.96, SCORE: 0.18, "g_path": 0.46}
    assert {name: times[name].sec_per_kimg for name in expected} == pytest.approx(expected)
    assert sum(time.sec_per_kimg for time in times.values()) == pytest.approx(3.2)


def test_phase_times_without_plain_generator_steps(tick):
    always = tick(1, **{"count/g_score": 64})
    del always["count/g_main"], always["ms/g_main"]
    times = {time.phase: time for time in phase_times([always], PHASES)}
    assert times["g_score"].ms_per_run == 75.0 and "g_main" not in times and SCORE not in times


def test_phases_of_a_run_that_names_none_are_those_of_its_ticks(tick):
    times = {time.phase: time for time in phase_times([tick(1), tick(2)], {})}
    assert list(times) == ["d_main", "d_r1", "g_main", "g_path", "g_score", "everything else"]
    assert sum(time.sec_per_kimg for time in times.values()) == pytest.approx(3.2)


def test_rows_end_with_a_total_and_their_shares_add_up(tick):
    *rows, total = cost_rows(phase_times([tick(1), tick(2)], PHASES))
    assert rows[3] == ["d_main", "40.00", "32.00", "1.280", pytest.approx(0.4)]
    assert sum(row[-1] for row in rows) == pytest.approx(1) and total == ["total", "", "", "3.200", 1.0]
