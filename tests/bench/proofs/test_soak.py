"""The table of a long run; the run itself takes hours, and a short one a minute."""

import pytest

from bench.proofs.soak import START_TICKS, Sample, fifths, report, samples_of_run, table_rows


def test_a_leak_shows_and_the_start_does_not() -> None:
    samples = [Sample(500 if tick < START_TICKS else (100 + tick) * 2**20, 20, 5, 0.01) for tick in range(1000)]
    first, last = fifths(samples)
    assert len(first) == 200 - START_TICKS and len(last) == 200
    memory, descriptors, threads, sec = table_rows(samples)
    assert memory["least_first"] == 100 + START_TICKS and memory["last"] == pytest.approx(100 + 899.5)
    assert memory["drift"] == pytest.approx(memory["last"] / memory["first"] - 1) and memory["drift"] > 3
    assert [row["drift"] for row in (descriptors, threads, sec)] == [0, 0, 0]
    assert sec["first"] == pytest.approx(10) and "| time of a tick, ms | 10 |" in report(table_rows(samples), 1000)


@pytest.mark.slow
def test_every_tick_of_a_run_is_looked_at(tmp_path) -> None:
    samples = samples_of_run(tmp_path, 5)
    assert len(samples) == 5 and all(value > 0 for sample in samples for value in sample)
