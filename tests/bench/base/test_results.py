"""Files of results: complete after every row, readable again, and strict about what they take."""

import json
from pathlib import Path

import pytest
import torch

from bench.base.limits import Limits, measure_limits
from bench.base.results import Run, load, load_all
from smartfast.errors import UserError

CPU = torch.device("cpu")
LIMITS = Limits(copy_bytes_per_sec=1e10, flops_per_sec={"fp32": 1e11, "bf16": 1e12}, launch_sec=1e-6)
ROW = {"op": "bias_act", "provider": "ours", "median_sec": 0.5, "p20_sec": 0.4, "p80_sec": 0.6}


def test_a_run_can_be_read_again(tmp_path: Path) -> None:
    with Run("ops", "python -m bench ops", device=CPU, limits=LIMITS, folder=tmp_path) as run:
        run.add(ROW)
        run.add({"op": "upfirdn2d", "error": "wrong: relative error 1"})
        run.skip("1024 pixels")
    result = load(run.path)
    assert result.rows == run.rows == [ROW, {"op": "upfirdn2d", "error": "wrong: relative error 1"}]
    assert (result.suite, result.command, result.quick, result.stopped) == ("ops", "python -m bench ops", False, None)
    assert result.limits == LIMITS and result.skipped == ["1024 pixels"]
    assert result.device["type"] == "cpu" and result.device["name"] and result.device["threads"] >= 1
    assert result.versions["torch"] == torch.__version__
    assert run.path.name.endswith("-ops.json") and load_all(tmp_path) == [result]


def test_the_file_is_complete_after_every_row(tmp_path: Path) -> None:
    run = Run("train", "command", device=CPU, folder=tmp_path)
    with run:
        for count in range(3):
            assert (load(run.path).stopped, len(load(run.path).rows)) == ("not finished", count)
            run.add(ROW)


def test_keys_can_be_added_to_a_row_later(tmp_path: Path) -> None:
    with Run("train", "command", device=CPU, folder=tmp_path) as run:
        numbers = [run.add(ROW), run.add(ROW)]
        run.extend(numbers[0], {"launches": 3.0})
        assert load(run.path).rows == [ROW | {"launches": 3.0}, ROW]
        with pytest.raises(ValueError, match="launches is nan"):
            run.extend(numbers[1], {"launches": float("nan")})
    assert load(run.path).rows == [ROW | {"launches": 3.0}, ROW]


def test_an_interrupted_run_says_so_and_keeps_its_rows(tmp_path: Path) -> None:
    run = Run("train", "command", device=CPU, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt), run:
        run.add(ROW)
        raise KeyboardInterrupt
    assert load(run.path).rows == [ROW] and load(run.path).stopped == "KeyboardInterrupt: "


@pytest.mark.parametrize(
    "row",
    [{"op": "x"}, {"error": "e", "flops": float("nan")}, {"error": "e", "x": [1]}, {"median_sec": torch.ones(1)}],
    ids=["no time", "nan", "list", "tensor"],
)
def test_rows_that_no_report_could_show_are_refused(row: dict[str, object], tmp_path: Path) -> None:
    with Run("ops", "command", device=CPU, folder=tmp_path) as run, pytest.raises(ValueError, match="expected|needs"):
        run.add(row)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"schema": 0, "rows": []}))
    (tmp_path / "broken.json").write_text("{")
    for name in ("other.json", "broken.json", "absent.json"):
        with pytest.raises(UserError, match=f"{name}: expected a result"):
            load(tmp_path / name)


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    assert LIMITS.floor_sec(flops=1e11, bytes_moved=1e9) == 1.0
    assert LIMITS.floor_sec(flops=1e11, dtype="bf16", bytes_moved=1e10) == 1.0
    assert LIMITS.floor_sec(bytes_moved=5e9) == 0.5
    with pytest.raises(KeyError):
        LIMITS.floor_sec(flops=1.0, dtype="fp8")


def test_limits_of_this_machine_are_plausible() -> None:
    limits = measure_limits(CPU, quick=True)
    assert set(limits.flops_per_sec) == {"fp32", "bf16", "fp16"}
    assert 1e8 < limits.copy_bytes_per_sec < 1e13 and 1e8 < limits.flops_per_sec["fp32"] < 1e14
    assert 1e-8 < limits.launch_sec < 1e-3
