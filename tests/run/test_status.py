"""The status line, durations, phase times and memory."""

import mmap
import re
import time

import pytest
import torch

from smartfast.core.text import format_duration
from smartfast.run.status import PhaseTimer, memory_gib, status_line

PHASES = ("g_main", "g_score", "g_path", "d_main", "d_r1", "data")

FULL_ROW = {
    "kind": "tick",
    "tick": 12,
    "kimg": 48.032,
    "time_sec": 3725.4,
    "sec_per_tick": 13.06,
    "sec_per_kimg": 3.265,
    "maintenance_sec": 0.71,
    "cpu_mem_gib": 1.234,
    "gpu_mem_gib": 22.5,
    "images_per_sec": 306.3,
    "skipped_steps": 2,
    **{f"ms/{phase}": 10.0 + i for i, phase in enumerate(PHASES)},
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


def test_status_line_shows_every_value():
    line = status_line(FULL_ROW, PHASES)
    assert "\n" not in line
    assert " ".join(line.split()) == (
        "tick 12 kimg 48.0 time 1h 02m 05s sec/tick 13.1 sec/kimg 3.27 maintenance 0.7 cpumem 1.23 gpumem 22.50 "
        "img/s 306.3 ms g_main 10.0 g_score 11.0 g_path 12.0 d_main 13.0 d_r1 14.0 data 15.0 skipped 2"
    )


def test_columns_stay_in_place_when_values_are_missing():
    names = r"\b(tick|kimg|time|sec/|maintenance|cpumem|gpumem|img/s|ms|d_|g_|data|skipped)"
    sparse = {"tick": 1, "kimg": 4.0, "ms/d_main": 10.0}
    places = [[(m[0], m.start()) for m in re.finditer(names, status_line(row, PHASES))] for row in (FULL_ROW, sparse)]
    assert places[0] == places[1]
    assert "d_r1 -" in status_line(sparse, PHASES)


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
