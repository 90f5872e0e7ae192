"""What is due at the end of which tick, also where an iteration is longer than a tick."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from smartfast.cli import main
from smartfast.config.schema import RunConfig
from smartfast.core.run_log import read_rows
from smartfast.run.ticks import Ticks


@pytest.mark.parametrize(
    ("batch", "tick_kimg", "every", "due_kimg"),
    [
        (8, 0.016, 2, [0.032, 0.064, 0.096, 0.128]),
        (12, 0.016, 2, [0.036, 0.072, 0.096, 0.132]),  # the first iteration that has seen as many
        (4096, 4.0, 50, [200.704, 401.408, 602.112]),
        (4096, 1.0, 50, [53.248, 102.4, 151.552, 200.704]),  # four ticks an iteration
    ],
)
def test_what_is_due_every_so_many_ticks(batch: int, tick_kimg: float, every: int, due_kimg: list[float]) -> None:
    training = SimpleNamespace(images=0, images_per_iteration=batch)
    ticks = Ticks(training, RunConfig(tick_kimg=tick_kimg, kimg=1000))
    found = []
    while len(found) < len(due_kimg):
        training.images += batch
        if ticks.is_due(every):
            assert ticks.has_ended
            found.append(training.images / 1000)
    assert found == due_kimg
    assert not ticks.is_due(0)


def test_a_run_that_ends_within_a_tick_has_a_row_of_it(tiny_options: Callable[..., list[str]], tmp_path: Path) -> None:
    assert main(["train", *tiny_options(tmp_path, run__kimg=0.04, run__tick_kimg=0.016)]) == 0
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "tick"]
    assert [row["kimg"] for row in rows] == [0.016, 0.032, 0.04]
    assert all(row["sec_per_tick"] > 0 and row["loss/g_main"] > 0 for row in rows)
