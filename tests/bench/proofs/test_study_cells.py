"""What a study adds to a training is the difference of two measurements."""

import json
from pathlib import Path

import pytest

from bench.proofs.study_cells import main


def test_the_table_and_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--output", str(tmp_path), "--cells", "1"]) == 0
    (row,) = json.loads((tmp_path / "study_cells.json").read_text())["rows"]
    assert row["cells"] == 1 and row["cell_sec"] > 0 and row["alone_sec"] > 0
    assert row["added_sec"] == row["cell_sec"] - row["alone_sec"]
    assert f"| 1 | {row['cell_sec']:.2f} |" in (tmp_path / "study_cells.md").read_text()
