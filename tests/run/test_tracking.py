"""What a tracker receives."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smartfast.cli import main
from smartfast.core.run_log import read_rows


@pytest.mark.usefixtures("not_finite")
def test_every_number_of_a_tick_reaches_the_tracker(tmp_path: Path, tiny_options: Callable[..., list[str]]) -> None:
    options = tiny_options(tmp_path, run__tracker="tensorboard", run__kimg=0.032)
    assert main(["train", *options]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["skipped_steps"] > 0
    tracked = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    assert names - set(tracked.Tags()["scalars"]) == set()
    for name in ("skipped_steps", "skipped/g_main", "skipped_in_a_row/g_main", "tick"):
        events = [(event.step, event.value) for event in tracked.Scalars(name)]
        assert events == [(row["kimg"] * 1000, row[name]) for row in rows], name
