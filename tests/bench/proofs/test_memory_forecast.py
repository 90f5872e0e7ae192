"""The table of the forecast against what the allocator recorded."""

import json
from pathlib import Path

import pytest
import torch

from bench.proofs.memory_forecast import main, measured_peak_bytes


def test_the_peak_of_a_sum_of_two() -> None:
    def compute() -> None:
        a = torch.zeros(2**20)
        b = a + 1
        del a
        torch.zeros(2**19).add_(1)
        del b

    assert 0 <= measured_peak_bytes(compute) - 2 * 4 * 2**20 < 1024  # and the scalars


def test_the_table_and_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--output", str(tmp_path), "--configs", "digits", "--batch", "8"]) == 0
    rows = json.loads((tmp_path / "memory_forecast.json").read_text())["peaks"]
    assert [row["phase"] for row in rows] == ["g_main", "g_score", "d_main", "d_r1"]
    largest = max(rows, key=lambda row: row["measured_bytes"])
    assert 0.95 < largest["forecast_bytes"] / largest["measured_bytes"] < 1.05
    assert capsys.readouterr().out == (tmp_path / "memory_forecast.md").read_text() + "\n"
