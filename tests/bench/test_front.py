"""`python -m bench`: runs a suite into a file, compares files, and names what it does not understand."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench import __main__ as front
from bench.limits import Limits
from bench.options import Options
from bench.results import Run, load_all

LIMITS = Limits(copy_bytes_per_sec=1e10, flops_per_sec={"fp32": 1e11}, launch_sec=1e-6)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What a suite named `small`, which adds one row, was asked to do."""
    seen: list[Options] = []

    def run(options: Options, results: Run) -> None:
        seen.append(options)
        results.add({"config": "digits", "provider": "eager", "median_sec": 1.0, "p20_sec": 0.9, "p80_sec": 1.1})
        if not options.time_left_sec():
            results.skip("the rest")

    module = ModuleType("bench.suite_small")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.suite_small", module)
    monkeypatch.setitem(front.SUITES, "small", "for tests")
    monkeypatch.setattr(front, "measure_limits", lambda device, quick: LIMITS)
    monkeypatch.setattr(front, "set_up_cpu", lambda threads, num_processes: None)
    return seen


def test_a_suite_gets_the_options_and_leaves_a_file(asked: list[Options], tmp_path: Path) -> None:
    arguments = ["small", "--config", "digits", "cifar10", "--device", "cpu", "--quick", "--optim.batch=8"]
    assert front.main([*arguments, "--output", str(tmp_path)]) == 0
    (options,) = asked
    assert (options.configs, options.overrides) == (("digits", "cifar10"), ("--optim.batch=8",))
    assert options.quick and options.device == torch.device("cpu") and 479 < options.time_left_sec() <= 480
    (result,) = load_all(tmp_path)
    assert result.limits == LIMITS and result.quick and result.stopped is None and len(result.rows) == 1
    assert result.command == f"python -m bench {' '.join(arguments)} --output {tmp_path}"


def test_a_spent_budget_leaves_the_rest_out(asked: list[Options], tmp_path: Path) -> None:
    assert front.main(["small", "--device", "cpu", "--budget_sec", "0", "--output", str(tmp_path)]) == 0
    assert load_all(tmp_path)[0].skipped == ["the rest"]


def test_files_are_compared(asked: list[Options], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front.main(["small", "--device", "cpu", "--output", str(tmp_path)])
    path = str(load_all(tmp_path)[0].path)
    assert front.main(["--compare", path, path]) == 0
    assert "| 1,000 (900 to 1,100) | 1,000 (900 to 1,100) | noise (1.00x) |" in capsys.readouterr().out


def test_what_it_does_not_understand_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert front.main([]) == 2
    assert "expected one of regularizer, train" in capsys.readouterr().err
    assert front.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "a.json: expected a result" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        front.main(["nothing"])
