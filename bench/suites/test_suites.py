"""Every suite, and every layer of a network, as benchmarks of pytest.

    pytest bench [--bench-device cuda] [--bench-config digits ...] [--full] [--benchmark-json out.json]

A suite's benchmark is its whole run, whose rows are in the JSON's extra_info; a layer's are the calls themselves.
"""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.__main__ import SUITES, run_suite
from bench.base.options import Options
from bench.base.results import RESULTS, load
from bench.base.ways import GROUPED, OURS, REFERENCE
from bench.count.layers import Case
from bench.count.sizes import suite_cases
from bench.suites.op_cases import Inputs
from bench.suites.ops import QUICK_CASES, calls_of


def device_of(config: pytest.Config) -> torch.device:
    return torch.device(config.getoption("bench_device") or ("cuda" if torch.cuda.is_available() else "cpu"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The layers of the first configuration, the largest first."""
    if "case" in metafunc.fixturenames:
        device_type = device_of(metafunc.config).type
        asked = metafunc.config.getoption("bench_config")
        cases = suite_cases(asked[0] if asked else "digits" if device_type == "cpu" else "cifar10", device_type)
        chosen = cases if metafunc.config.getoption("full") else cases[:QUICK_CASES]
        metafunc.parametrize("case", chosen, ids=[f"{case.op}, {case}, {case.x.dtype}" for case in chosen])


@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str, benchmark: BenchmarkFixture, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    is_full = pytestconfig.getoption("full")
    options = Options(
        device=device_of(pytestconfig), configs=tuple(pytestconfig.getoption("bench_config")), quick=not is_full
    )
    command = shlex.join(["pytest", *sys.argv[1:]])
    folder = RESULTS if is_full else tmp_path
    path = benchmark.pedantic(run_suite, (suite, options, command, folder), rounds=1, iterations=1)
    rows = load(path).rows
    benchmark.extra_info["rows"] = rows
    assert rows
    assert not [row for row in rows if str(row.get("error")).startswith("wrong")]


@pytest.mark.parametrize("provider", [REFERENCE, OURS, GROUPED])
def test_layer(case: Case, provider: str, benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> None:
    device = device_of(pytestconfig)
    calls = calls_of(Inputs(case, device), "forward_backward", device, compiles=False)
    if provider not in calls:
        pytest.skip(f"{provider} does not compute {case.op} on {device.type}")
    benchmark.group = f"{case.op}, {case}, {case.x.dtype}, forward and backward"
    benchmark(_finished(calls[provider], device))


def _finished(call: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """pytest-benchmark reads a clock, which does not wait for a GPU by itself."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run
