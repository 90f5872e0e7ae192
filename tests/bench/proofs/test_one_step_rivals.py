"""The rows behind bench.proofs.one_step_rivals: costs that follow the steps, and what a complete cell adds."""

from pathlib import Path

import pytest

from bench.proofs.one_step_rivals import METRICS, draw_strip, main, measured, rivals
from smartfast.config.parse import parse_config
from smartfast.data import open_dataset
from smartfast.families.saved import open_sampler


def test_a_row_costs_its_steps(tmp_path: Path) -> None:
    dataset = open_dataset(parse_config(["--config=digits"]).data)
    rows = []
    for name, sampler in rivals(tmp_path, 0, [1, 3]):
        rows.append(measured(name, sampler.of_data(dataset.labels, seed=0), dataset, 24))
    one, three = rows
    assert (one.name, three.name) == ("scorer, 1 step", "scorer, 3 steps")
    assert three.flops == pytest.approx(3 * one.flops) and one.flops == pytest.approx(45.7e6, rel=0.01)
    assert one.parameters == 637_105 and set(one.metrics) == set(METRICS)


def test_a_strip_has_a_row_for_each_class(tmp_path: Path) -> None:
    draw_strip(open_sampler("scorer:digits").in_steps(1), tmp_path / "strip.png")
    assert (tmp_path / "strip.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_report_is_written(tmp_path: Path) -> None:
    folders = [f"--output={tmp_path}", f"--strips={tmp_path / 'strips'}", f"--study={tmp_path / 'none'}"]
    assert main([*folders, "--samples=24", "--steps", "1", "2"]) == 0
    assert "| scorer, 2 steps |" in (tmp_path / "one_step_rivals.md").read_text()
    assert len(list((tmp_path / "strips").glob("*.png"))) == 2
