"""`python -m bench`: runs a suite into a file, compares files, and names what it does not understand."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench import __main__ as front
from bench.base.limits import Limits
from bench.base.options import Options, torch_device
from bench.base.results import Run, load_all
from smartfast.errors import UserError

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

    module = ModuleType("bench.suites.small")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.suites.small", module)
    monkeypatch.setitem(front.SUITES, "small", "for tests")
    monkeypatch.setattr(front, "measure_limits", lambda device, quick: LIMITS)
    monkeypatch.setattr(front, "set_up_cpu", lambda threads, num_processes: None)
    return seen


def test_a_suite_gets_the_options_and_leaves_a_file(asked: list[Options], tmp_path: Path) -> None:
    arguments = ["small", "--config", "digits", "cifar10", "--device", "cpu", "--quick", "--optim.batch=8"]
    assert front.main([*arguments, "--output", str(tmp_path)]) == 0
    (options,) = asked
    assert (options.configs, options.overrides) == (("digits", "cifar10"), ("--optim.batch=8",))
    assert options.quick and options.device == torch.device("cpu") and 400 < options.time_left_sec() <= 480
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "nothing"], "--config nothing: no such file"),
        (["train", "--optim.bach=8"], "optim.bach: there is no such option; did you mean optim.batch?"),
        (["ops", "--config", "cifar11"], "--config cifar11: no such file"),
        (["all", "--config", "nothing"], "--config nothing: no such file"),
        (["train", "--device", "tpu"], "--device is tpu, expected cpu, cuda"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front.main([*arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m bench: {message}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_devices_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("cpu") == torch.device("cpu") and torch_device("cuda:1") == torch.device("cuda", 1)
    for name in ("cuda:2", "cuda:x", "cpuu"):
        with pytest.raises(UserError, match=f"--device is {name}"):
            torch_device(name)


def test_an_interrupted_suite_keeps_its_rows_and_stops_the_others(
    asked: list[Options], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = sys.modules["bench.suites.small"].run

    def interrupted(options: Options, results: Run) -> None:
        honest(options, results)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["bench.suites.small"], "run", interrupted)
    assert front.main(["small", "--device", "cpu", "--output", str(tmp_path)]) == 3
    (result,) = load_all(tmp_path)
    assert len(result.rows) == 1 and result.stopped == "KeyboardInterrupt: "

    started = []
    monkeypatch.setattr(
        front.subprocess, "run", lambda command, check: started.append(command) or SimpleNamespace(returncode=3)
    )
    assert front.main(["all", "--device", "cpu", "--output", str(tmp_path)]) == 3
    assert len(started) == 1
