"""Suites and counters on a family that is no GAN: a diffusion model, with one phase and without a score term."""

import itertools
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.__main__ import SUITES
from bench.base.family import modules, replacements, runs_per_iteration
from bench.base.jobs import Job, job_config, open_job
from bench.base.options import Options
from bench.base.results import Run
from bench.count.counter import STEP, training_work
from bench.count.phase_counts import count_phase, estimated_flops
from bench.count.roofline import count_preset
from bench.proofs.equality import measure_equality
from smartfast.engine.compiling import Compiler

CPU = torch.device("cpu")
DENOISER = """
gan: {family: denoiser, block_out_channels: [8, 16], layers_per_block: 1, attention_head_dim: 8, norm_groups: 4}
smart: {frequency: 0}
data: {path: digits, labels: true, resolution: 16}
optim: {batch: 4}
metrics: {every_ticks: 0}
perf: {cpu_threads: 1}
"""
BATCH = 8
"""Of --quick."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "denoiser.yaml").write_text(DENOISER)
    return str(tmp_path / "denoiser.yaml")


@pytest.fixture
def job(config: str) -> Job:
    return open_job(job_config(config, []), device=CPU)


def rows_of(suite: str, config: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """What a trial of a suite writes down, and its whole file."""
    options = Options(device=CPU, configs=(config,), quick=True, budget_sec=3600)
    with Run(suite, "test", device=CPU, quick=True, folder=folder) as results:
        import_module(f"bench.suites.{suite}").run(options, results)
    return results.rows, results.path.read_text()


# What each suite finds: a name and its values in order.
FOUND = {
    "phases": ("phase", ["denoise"]),
    "train": ("score", [False]),
    "roofline": ("phase", ["denoise", "ema", "all"]),
    "startup": ("provider", ["eager"]),
    "ops": ("op", []),  # its network is diffusers'
    "regularizer": ("step", []),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_takes_the_family(suite: str, config: str, tmp_path: Path) -> None:
    rows, file = rows_of(suite, config, tmp_path / "results")
    assert not [row for row in rows if "error" in row]
    name, values = FOUND[suite]
    assert [value for value, _ in itertools.groupby(row[name] for row in rows)][: len(values)] == values
    if suite == "regularizer":
        assert rows == [] and "smart.frequency is 0" in file
    if suite in ("phases", "train", "startup"):
        assert all(row["batch"] == BATCH and row["median_sec"] > 0 for row in rows)


def test_its_phase_is_counted_as_pytorch_counts_it(job: Job) -> None:
    training = job.training(compile=False)
    assert runs_per_iteration(training) == {"denoise": 1.0} and replacements(training) == {}
    work = training_work(training, ["denoise"], modules=modules(training, None))
    with FlopCounterMode(display=False) as counter:
        training.phases["denoise"].compute(training.rounds[0])
    assert sum(item.flops for item in work["denoise"]) == counter.get_total_flops() > 0
    assert {item.layer.split(".")[0] for item in work["denoise"]} == {"denoiser", STEP}
    assert [item.layer for item in work["ema"]] == [STEP]


@pytest.mark.slow
def test_its_phase_is_counted_compiled(job: Job) -> None:
    training = job.training(compile=False)
    eager, compiled, step = count_phase(training.phases["denoise"], training, Compiler(True, say=lambda line: None))
    assert compiled.calls < eager.calls and step.launches > 0
    assert compiled.flops == eager.flops
    # The estimate takes a backward pass for two forward passes; attention on a CPU computes its weights once more.
    assert 0.9 < eager.flops / estimated_flops(job, training)["denoise"] < 1.1


def test_its_floor_has_no_score_term(config: str) -> None:
    job, counted = count_preset(config)
    assert counted.runs_per_iteration == {"denoise": 1.0, "ema": 1.0} and job.scorer is None
    assert counted.without_score() == counted


def test_its_runs_are_compared(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    result = measure_equality(job, iterations=2)
    series, drift = result["statistics"]["loss/denoise"], result["parameters"]
    assert series["compiled"] == series["eager"] and len(series["rounding"]) == 2
    # Of the weights, for on some processors the first losses are alike to the last bit.
    assert all(value == 0 for values in drift["compiled"].values() for value in values)
    assert set(drift["rounding"]) == {"denoiser", "ema"} and all(
        min(values) > 0 for values in drift["rounding"].values()
    )
