"""The status line, durations, phase times and memory."""

import mmap
import re
import time

import pytest
import torch

from smartfast.core.text import format_duration
from smartfast.run.status import FirstTickWatch, PhaseTimer, SlownessWatch, memory_gib, status_line

ROW = {
    "kind": "tick",
    "tick": 12,
    "kimg": 48.032,
    "time_sec": 3725.4,
    "left_sec": 93780.0,
    "sec_per_kimg": 3.265,
    "maintenance_sec": 0.71,
    "images_per_sec": 306.3,
    "skipped_steps": 0,
    "loss/score": 0.03125,
    "loss/g_main": 0.7123,
    "loss/r1": 12.5,
    "loss/d_main": 1.2345,
    "ms/g_main": 10.0,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (188, "3m 08s"),
        (3600, "1h 00m 00s"),
        (7388, "2h 03m 08s"),
        (93780, "1d 02h 03m"),
        (-1, "0s"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_status_line() -> None:
    assert " ".join(status_line(ROW, None).split()) == (
        "tick 12 kimg 48.0 time 1h 02m left 1d 02h s/kimg 3.27 d 1.23 g 0.712 r1 12.5 score 0.0312"
    )
    assert " skipped 2 d 1.23 " in " ".join(status_line(ROW | {"skipped_steps": 2}, None).split())


LONG = {"tick": 12345, "kimg": 25000.0, "time_sec": 99 * 86400.0, "left_sec": 99 * 86400.0, "sec_per_kimg": 999.5}


@pytest.mark.parametrize("width", [20, 60, 80, 90, 100, 120, 200])
@pytest.mark.parametrize("row", [ROW, ROW | {"skipped_steps": 123}, ROW | LONG], ids=["usual", "skipped", "long"])
def test_it_fits_a_terminal_and_ends_with_a_whole_value(row: dict, width: int) -> None:
    line, whole = status_line(row, width), status_line(row, None)
    assert len(line) < width and whole.startswith(line)
    assert line == whole or whole[len(line)] == " " and line[-1] != " "


def test_80_columns_have_time_left_and_both_losses() -> None:
    line = status_line(ROW, 80)
    assert all(part in line for part in ("left 1d 02h", "d 1.23", "g 0.712"))


def test_columns_stay_in_place_when_values_are_missing() -> None:
    places = [
        [(m[0], m.start()) for m in re.finditer(r"\b(tick|kimg|time|left|s/kimg|d|g)\b (?=\S)", status_line(row, None))]
        for row in (ROW, {"loss/g_main": 1.0, "loss/d_main": 1.0}, ROW | LONG)
    ]
    assert places[0][:6] == places[1][:6] and len(places[0]) == 7
    assert places[2][0] == ("tick ", 0)


SLOW = {
    "steady": ([9, 2, 2, 2] + [2] * 20, None),
    "the first tick compiles": ([100, 2, 2, 2] + [2.2] * 20, None),
    "one slow tick": ([9, 2, 2, 2, 20, 2, 20, 2], None),
    "slow from some tick on": ([9, 2, 2, 2, 2, 7, 8, 9, 10], 6),
    "twice as slow": ([9, 2, 2, 2] + [4] * 20, None),
    "one of the first is slow": ([9, 2, 50, 2, 2, 9, 9, 9], 6),
    "slow twice": ([9, 2, 2, 2, 9, 9, 2, 2, 9, 9], 5),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_run_that_becomes_far_slower_says_so_once(name: str) -> None:
    ticks, expected = SLOW[name]
    watch = SlownessWatch(torch.device("cpu"))
    said = [(tick, line) for tick, sec in enumerate(ticks) if (line := watch.remark({"sec_per_kimg": sec}))]
    assert [tick for tick, _ in said] == ([] if expected is None else [expected])
    for _, line in said:
        assert "perf.cpu_threads" in line and "\n" not in line and "2 of this run's first ticks" in line
    assert "perf.cpu_threads" not in (SlownessWatch(torch.device("cuda")).text(9.0, 2.0))


def test_a_first_tick_of_more_than_a_minute_is_announced_once() -> None:
    """16 of 4000 images every 40 s: 2.5 s each."""
    watch = FirstTickWatch(0, 4000, 25_000_000)
    said = [line for i in range(1, 400) if (line := watch.line(16 * i, 40.0 * i))]
    assert said == [
        "pace: 0.032 kimg in 1m 20s, 2500 s/kimg: the first tick in about 2h 45m 20s, "
        "the end at 25000 kimg in about 723d 09h 05m"
    ]
    resumed = FirstTickWatch(10_000, 4000, 20_000)
    assert resumed.line(10_500, 60.0) is None
    assert "pace: 1 kimg in 1m 40s, 100 s/kimg: the first tick in about 1m 40s," in resumed.line(11_000, 100.0)


def test_a_tick_within_a_minute_is_announced_by_nothing_else() -> None:
    watch = FirstTickWatch(0, 4000, 25_000_000)
    assert [watch.line(images, images / 66) for images in range(1000, 20_000, 1000)] == [None] * 19


def test_phase_timer_means_and_counts():
    timer = PhaseTimer("cpu")
    for _ in range(3):
        with timer("d_main"):
            time.sleep(0.01)
    with timer("d_r1"), timer("data"):
        pass
    with pytest.raises(RuntimeError), timer("g_main"):
        raise RuntimeError
    values = timer.read()
    assert set(values) == {"ms/d_main", "count/d_main", "ms/d_r1", "count/d_r1", "ms/data", "count/data"}
    assert values["count/d_main"] == 3 and values["count/d_r1"] == 1
    assert values["ms/d_main"] >= 10.0  # sleep never returns early
    assert timer.read() == {}


def test_phase_timer_waits_for_the_gpu_only_when_it_is_read(monkeypatch):
    waits, clock = [], iter([1.0, 4.0, 10.0, 15.0])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.ms = next(clock)

        def elapsed_time(self, end):
            assert waits, "read before the GPU was done"
            return end.ms - self.ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    timer = PhaseTimer("cuda:0")
    for _ in range(2):
        with timer("g_main"):
            assert not waits
    assert timer.read() == {"ms/g_main": 4.0, "count/g_main": 2} and waits == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_phase_timer_measures_the_gpu():
    timer = PhaseTimer("cuda")
    with timer("d_main"):
        torch.cuda._sleep(10_000_000)
    values = timer.read()
    assert values["count/d_main"] == 1 and values["ms/d_main"] > 1.0


def test_memory_counts_what_is_allocated():
    before = memory_gib("cpu")
    with mmap.mmap(-1, 128 * 2**20) as ballast:
        for page in range(0, len(ballast), mmap.PAGESIZE):
            ballast[page] = 1
        after = memory_gib("cpu")
    assert before.cpu_gib > 0.05 and before.gpu_gib == 0
    assert after.cpu_gib - before.cpu_gib > 0.125 / 2


def test_a_run_that_was_compiled_meanwhile_does_not_count() -> None:
    compiled_sec = 0.0
    timer = PhaseTimer("cpu", compile_sec=lambda: compiled_sec)
    with timer("d_main"):
        compiled_sec = 3.0
    assert timer.read() == {}
    with timer("d_main"):
        pass
    assert timer.read()["count/d_main"] == 1
