"""bench.modes on a tiny job; nothing here compares times."""

import json
import math
import os
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from bench import modes
from bench.equality import drift_of, equality_section, measure_equality, move_by_one_rounding_, relative_differences
from bench.jobs import Job, job_config, open_job
from bench.speed import Run, measure_speed, period, speed_section

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
    Run(job, compiled=False).iterate(1)
    assert compiled_names == []
    assert Run(job, compiled=True).iterate(1) > 0
    assert {"d_main", "d_r1", "g_main"} <= set(compiled_names)


@pytest.mark.parametrize(
    ("intervals", "expected"), [((8, 4, 16), 16), ((0, 0, 16), 16), ((0, 0, 0), 1), ((3, 4, 0), 12)]
)
def test_period_of_the_schedule(job: Job, intervals: tuple[int, int, int], expected: int) -> None:
    score, path, r1 = intervals
    options = [*TINY, f"--smart.frequency={score}", "--loss.path_length_weight=2"]
    options += [f"--loss.path_length_interval={path}", f"--loss.r1_interval={r1}"]
    changed = Job(job_config("digits", options), job.dataset, None, None, job.device)
    assert period(changed) == expected


def test_speed_is_measured_in_pairs(job: Job, compiled_names: list[str]) -> None:
    result = measure_speed(job, blocks=3)
    assert result["block_iterations"] == 2 and len(result["eager"]) == len(result["compiled"]) == 3
    assert all(rate > 0 for rate in result["eager"] + result["compiled"])


def test_speed_report_takes_ratios_of_pairs() -> None:
    result = {"block_iterations": 16, "batch": 32, "eager": [10.0, 20.0, 40.0], "compiled": [20.0, 20.0, 120.0]}
    text = speed_section(result)
    assert "| eager, images/s | 20 | 10 | 40 |" in text
    assert "| ratio of a pair | 2 | 1 | 3 |" in text


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
    assert result["parameters"]["compiled"]["generator"] == [0.0, 0.0]
    assert 0 < result["parameters"]["rounding"]["generator"][0] < 1e-2
    assert "| loss/d_main | 0.0e+00 |" in equality_section(result)


def test_drift_is_relative_to_the_eager_run(job: Job) -> None:
    a, b = job.training(), job.training()
    a.g.parameters.flat.mul_(1.5)
    drift = drift_of(a, b)
    assert drift["generator"] == pytest.approx(0.5)
    assert drift["discriminator"] == drift["averaged generator"] == 0


def test_frechet_distance_of_every_run(job: Job, compiled_names: list[str]) -> None:
    options = [*TINY, "--metrics.every_ticks=1", "--metrics.samples=64"]
    measured = Job(job_config("digits", options), job.dataset, None, None, job.device)
    fid = measure_equality(measured, iterations=1)["fid"]
    assert fid["compiled"] == fid["eager"] and len(fid["rounding"]) == 1 and fid["eager"][0] > 0


def test_start_up_ends_when_every_phase_has_run(job: Job) -> None:
    iterations: list[int] = []
    run_iteration = Run.iterate

    def counted(self, count):
        iterations.append(count)
        return run_iteration(self, count)

    with patch.object(Run, "iterate", counted):
        modes.start_up(job, "eager")
    assert iterations == [1]  # d_r1, d_main and g_main are all due in the first one


def test_cold_starts_have_an_empty_cache_and_warm_ones_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def child(command, env, **_):
        assert command[:3] == [sys.executable, "-m", "bench.modes"] and command[-1] == "--optim.batch=8"
        cache = Path(env["TORCHINDUCTOR_CACHE_DIR"])
        seen.append((command[4], len(os.listdir(cache))))
        if command[4] == "compiled":
            (cache / f"code{len(seen)}").touch()

    monkeypatch.setattr(modes.subprocess, "run", child)
    result = modes.measure_startup(["--optim.batch=8"], warm_runs=2)
    assert seen == [("eager", 0), ("eager", 0), ("compiled", 0), ("compiled", 1), ("compiled", 2)]
    assert [len(result[key]) for key in ("eager_sec", "cold_sec", "warm_sec")] == [2, 1, 2]


def test_report_keeps_parts_of_earlier_calls(tmp_path: Path, compiled_names: list[str]) -> None:
    command = ["--config=digits", "--output", str(tmp_path), "--device=cpu", *TINY]
    assert modes.main([*command, "--parts", "speed", "--blocks=1"]) == 0
    assert modes.main([*command, "--parts", "equality", "--iterations=2"]) == 0
    assert list(json.loads((tmp_path / "modes_digits.json").read_text())) == ["speed", "equality"]
    text = (tmp_path / "modes_digits.md").read_text()
    assert text.index("## Speed") < text.index("## The same numbers") and text.count("python -m bench.modes") == 2


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert modes.main(["--device=cpu", "--optim.batches=8"]) == 2
    assert "optim.batch" in capsys.readouterr().err
