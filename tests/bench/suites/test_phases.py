"""The suites of whole phases and whole training run and refuse wrong gradients."""

from pathlib import Path

import pytest
import torch

from bench.base.jobs import EAGER, job_config
from bench.base.options import Options
from bench.base.paper_jobs import open_paper_job
from bench.base.results import Run, load
from bench.suites import phases as suite_phases
from bench.suites import train as suite_train
from bench.suites.phases import max_error, plan, settings

OPTIONS = Options(device=torch.device("cpu"), quick=True, overrides=("--perf.cpu_threads=1",), budget_sec=3600)


def test_plan_puts_the_own_precision_of_every_configuration_first() -> None:
    options = Options(device=torch.device("cuda"), configs=("cifar10", "digits"))
    pairs = list(plan(options))
    assert pairs[:2] == [("cifar10", "fp16"), ("digits", "fp32")]
    assert len(pairs) == len(set(pairs)) == 8
    assert list(plan(OPTIONS)) == [("digits", "fp32")]


def test_what_the_user_sets_wins() -> None:
    options = Options(device=torch.device("cuda"), overrides=("--optim.batch_gpu=16",))
    assert settings("lsun_bedroom256", options)[-1] == "--optim.batch_gpu=16"
    assert settings("lsun_bedroom256", Options(device=torch.device("cuda"))) == ("--optim.batch_gpu=8",)


@pytest.mark.slow
def test_phases_of_the_digits(tmp_path: Path) -> None:
    with Run("phases", "test", device=OPTIONS.device, folder=tmp_path) as results:
        suite_phases.run(OPTIONS, results)
    rows = load(results.path).rows
    assert [(row["phase"], row["provider"]) for row in rows] == [
        (phase, "reference") for phase in ("g_main", "g_score", "d_main", "d_r1")
    ]
    for row in rows:
        assert "error" not in row
        assert row["sec_per_kimg"] == row["median_sec"] * row["runs_per_iteration"] * 1000 / 8


def test_phase_with_another_gradient_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = suite_phases.PhaseRun.__call__
    calls = []

    def wrong_from_the_second_on(self: suite_phases.PhaseRun) -> torch.Tensor:
        calls.append(self)
        return honest(self) * (1.0 if len(calls) == 1 else 1.01)

    monkeypatch.setattr(suite_phases.PhaseRun, "__call__", wrong_from_the_second_on)
    monkeypatch.setattr(suite_phases, "runs_per_iteration", lambda training: {"d_main": 1.0})
    with Run("phases", "test", device=OPTIONS.device, folder=tmp_path) as results:
        suite_phases.run(OPTIONS, results)
    (row,) = results.rows
    assert row["error"].startswith("wrong: relative error 0.01") and "median_sec" not in row


def test_a_scorer_in_half_precision_may_round() -> None:
    """Its gradient is wrong by more than float32's limit, see bench/results/score_switches.md."""
    overrides = (*settings("digits", OPTIONS), "--smart.precision=bf16")
    half = open_paper_job(job_config("digits", overrides), device=OPTIONS.device)
    full = open_paper_job(job_config("digits", settings("digits", OPTIONS)), device=OPTIONS.device)
    assert (max_error(half, scores=True), max_error(half, scores=False)) == (5e-2, 1e-3)
    assert max_error(full, scores=True) == 1e-3


def test_training_of_the_digits(tmp_path: Path) -> None:
    with Run("train", "test", device=OPTIONS.device, folder=tmp_path) as results:
        suite_train.run(OPTIONS, results)
    with_score, without = results.rows
    assert with_score["score"] and not without["score"]
    for row in results.rows:
        assert row["sec_per_kimg"] * row["images_per_sec"] == pytest.approx(1000)
        assert 0 < row["data_wait_share"] < 1


@pytest.mark.slow
def test_training_that_skips_many_steps_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_paper_job(job_config("digits", settings("digits", OPTIONS)), device=OPTIONS.device)
    timed = suite_train.TimedTraining(job, 19, EAGER)
    assert suite_train.too_many_skipped(timed) is None
    timed()
    timed.loop.training.phases["g_main"].guard.total += 1
    assert suite_train.too_many_skipped(timed) is None  # a first iteration
    timed.loop.training.phases["g_main"].guard.total -= 1
    timed()
    assert (timed.skipped_steps, timed.iterations_done) == (0, 20)
    timed.loop.training.phases["d_main"].guard.total += 2
    assert suite_train.too_many_skipped(timed) is None
    timed.loop.training.phases["g_main"].guard.total += 1
    assert suite_train.too_many_skipped(timed) == "wrong: 3 optimizer steps in 20 iterations were not finite"

    monkeypatch.setattr(suite_train.TimedTraining, "skipped_steps", property(lambda timed: 5))
    with Run("train", "test", device=OPTIONS.device, folder=tmp_path) as results:
        suite_train.run(OPTIONS, results)
    assert len(results.rows) == 2 and all("median_sec" not in row for row in results.rows)
    assert results.rows[0]["error"] == "wrong: 5 optimizer steps in 1 iterations were not finite"
