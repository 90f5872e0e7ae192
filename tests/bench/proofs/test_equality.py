"""bench.proofs.equality on a tiny job; nothing here compares times."""

import math
from pathlib import Path

import pytest
import torch

from bench.base.jobs import EAGER, Job, Loop, job_config, open_job
from bench.proofs import equality
from bench.proofs.equality import drift_of, measure_equality, move_by_one_rounding_, relative_differences, report

TINY = [
    "--data.resolution=16",
    "--gan.z_dim=8",
    "--gan.w_dim=8",
    "--gan.mapping_layers=1",
    "--gan.channel_base=64",
    "--gan.channel_max=8",
    "--gan.mbstd_group=4",
    "--loss.r1_interval=2",
    "--optim.batch=8",
    "--smart.frequency=0",
    "--metrics.every_ticks=0",
    "--perf.cpu_threads=1",
]


@pytest.fixture
def job() -> Job:
    return open_job(job_config("digits", TINY), device=torch.device("cpu"))


@pytest.fixture
def compiled_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the compiler: leaves functions as they are and notes their names."""
    names: list[str] = []

    def compile_(function, **_):
        names.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    return names


def test_only_the_compiled_run_compiles(job: Job, compiled_names: list[str]) -> None:
    Loop(job, **EAGER).iterate(1)
    assert compiled_names == []
    Loop(job, **job.fast_perf()).iterate(1)
    assert {"d_main", "d_r1", "g_main"} <= set(compiled_names)


def test_one_rounding_is_the_next_number() -> None:
    values = torch.randn(1000)
    moved = values.clone()
    move_by_one_rounding_(moved, seed=0)
    up, down = (torch.nextafter(values, torch.full_like(values, end)) for end in (math.inf, -math.inf))
    assert ((moved == up) | (moved == down)).all() and 300 < (moved == up).sum() < 700


def test_relative_differences() -> None:
    assert relative_differences([3.0, 5.0], [3.0, 4.0]) == pytest.approx([0.0, 1 / math.sqrt(12.5)])
    assert relative_differences([1.0], [0.0]) == [1.0]


def test_equal_runs_differ_by_nothing_and_rounding_by_something(job: Job, compiled_names: list[str]) -> None:
    result = measure_equality(job, iterations=3)
    series = result["statistics"]
    assert len(series["loss/d_main"]["eager"]) == 3 and len(series["loss/r1"]["eager"]) == 2
    assert all(values["compiled"] == values["eager"] for values in series.values())
    assert any(values["rounding"] != values["eager"] for values in series.values())
    assert result["marks"] == [1, 3]
    assert result["parameters"]["compiled"]["g"] == [0.0, 0.0]
    assert 0 < result["parameters"]["rounding"]["g"][0] < 1e-2
    assert "| loss/d_main | 0.0e+00 |" in report({"provenance": "", **result}, "digits")


def test_drift_is_relative_to_the_eager_run(job: Job) -> None:
    a, b = job.training(), job.training()
    a.networks["g"].parameters.flat.mul_(1.5)
    drift = drift_of(a, b)
    assert drift["g"] == pytest.approx(0.5)
    assert drift["d"] == drift["ema"] == 0


def test_frechet_distance_of_every_run(job: Job, compiled_names: list[str]) -> None:
    options = [*TINY, "--metrics.every_ticks=1", "--metrics.samples=64"]
    measured = Job(job_config("digits", options), job.dataset, None, None, job.device)
    fid = measure_equality(measured, iterations=1)["fid"]
    assert fid["compiled"] == fid["eager"] and len(fid["rounding"]) == 1 and fid["eager"][0] > 0


def test_report_says_where_it_comes_from(tmp_path: Path, compiled_names: list[str]) -> None:
    command = ["--config=digits", "--output", str(tmp_path), "--device=cpu", "--iterations=2", *TINY]
    assert equality.main(command) == 0
    text = (tmp_path / "equality_digits.md").read_text()
    assert "`python -m bench.proofs.equality --config digits --iterations 2 --device cpu --data.resolution=16" in text
    assert text.startswith("# `digits`: compiled against eager")
    assert "2 iterations from the same seed" in text and (tmp_path / "equality_digits.json").is_file()


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert equality.main(["--device=cpu", "--optim.batches=8"]) == 2
    assert "optim.batch" in capsys.readouterr().err
