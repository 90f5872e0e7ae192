"""The schedule of a measurement's job."""

import pytest
import torch

from bench.base.family import replacements, runs_per_iteration
from bench.base.jobs import EAGER, job_config, open_job


@pytest.mark.parametrize(
    ("intervals", "expected"), [((8, 4, 16), 16), ((0, 0, 16), 16), ((0, 0, 0), 1), ((3, 4, 0), 12)]
)
def test_period_of_the_schedule(intervals: tuple[int, int, int], expected: int) -> None:
    score, path, r1 = intervals
    options = [f"--smart.frequency={score}", "--loss.path_length_weight=2", "--perf.cpu_threads=1"]
    options += [f"--loss.path_length_interval={path}", f"--loss.r1_interval={r1}"]
    job = open_job(job_config("digits", options), device=torch.device("cpu"))
    assert job.training(**EAGER).period == expected


def test_shares_are_runs_per_iteration_of_a_whole_period() -> None:
    options = ["--smart.frequency=3", "--loss.r1_interval=6", "--loss.path_length_weight=0", "--perf.cpu_threads=1"]
    opened = open_job(job_config("digits", options), device=torch.device("cpu"))
    training = opened.training(**EAGER)
    assert training.period == 6 and replacements(training) == {"g_score": "g_main"}
    assert {name: round(6 * share) for name, share in runs_per_iteration(training).items()} == {
        "g_main": 4,
        "g_score": 2,
        "d_main": 6,
        "d_r1": 1,
    }
