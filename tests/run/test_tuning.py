"""What is measured once on a machine is kept, merged, and decides; what is lost costs its call alone."""

import json
import pickle
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from smartfast import kernels
from smartfast.errors import UserError
from smartfast.kernels import use
from smartfast.kernels.calls import Call, recorded_calls
from smartfast.kernels.routes import routes_noted
from smartfast.run.tuning import Mode, export_times, import_times, lines_of, tuned
from smartfast.run.verdicts import TimesFile, VerdictFile, machine

CPU = torch.device("cpu")
EAGER = Mode(compiled=False, captured=False, tf32=False)
SHAPE = ("cpu", "float32", 3, 16, 16, 5)
STAND_IN = Path(__file__).with_name("slow_and_fast.py")
measure = runpy.run_path(str(STAND_IN))["measure"]


Winner = Callable[[str], None]


@pytest.fixture
def wins(monkeypatch: pytest.MonkeyPatch) -> Winner:
    """Says what wins by the clock of the stand-in, "aten" or "gemm", or that "nothing" can be measured."""

    def set_winner(what: str) -> None:
        def answers(command: Sequence[str], limit_sec: float) -> Iterator[tuple[int, dict[str, object]]]:
            jobs = [] if what == "nothing" else pickle.loads(Path(command[-3]).read_bytes())
            for index, job in enumerate(jobs):
                yield index, json.loads(json.dumps(measure(job, what)._asdict()))

        monkeypatch.setattr("smartfast.run.tuning.answers", answers)

    return set_winner


def calls() -> list[Call]:
    x, weight, styles = torch.zeros(2, 16, 5, 7), torch.zeros(16, 16, 3, 3), torch.zeros(2, 16)
    with use("aten"), routes_noted(everywhere=True), recorded_calls() as noted:
        kernels.modulated_conv2d(x, weight, styles, padding=1, input_is_scaled=True)
    return list(noted.values())


def test_what_was_measured_is_kept_and_decides_again(tmp_path: Path, wins: Winner) -> None:
    lines: list[str] = []
    wins("gemm")
    decisions = tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path)
    assert decisions.routes[SHAPE].name == "gemm" and decisions.forms == {"a launch": "half the depth"}
    assert decisions.aten == {}
    assert lines == ["kernels: tuning 3 calls of 3 ops, for at most 30 s", "kernels: tuned 3 calls"]
    wins("aten")
    assert tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path) == decisions
    assert len(lines) == 2, "nothing is measured a second time"
    assert lines_of(decisions) == [
        "kernels: routes of modulated convolutions by measurement: gemm 1",
        "kernels: 1 launches take another form than the default",
    ]


def test_times_are_of_one_way_to_run(tmp_path: Path, wins: Winner) -> None:
    wins("gemm")
    tuned(calls(), CPU, EAGER, say=print, folder=tmp_path)
    wins("aten")
    decisions = tuned(calls(), CPU, EAGER._replace(compiled=True), say=print, folder=tmp_path)
    assert set(decisions.aten) == {"finish"}
    assert tuned(calls(), CPU, EAGER, say=print, folder=tmp_path).aten == {}


@pytest.mark.slow  # it starts two processes
def test_a_child_that_is_lost_costs_its_call_alone(tmp_path: Path, wins: Winner) -> None:
    lines: list[str] = []
    child = (sys.executable, str(STAND_IN), "crash")
    decisions = tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path, child=child)
    assert "conv_gemm keeps its default for a call, for its tuning failed: the process ended with signal" in lines[1]
    assert decisions.routes == {} and lines[-1] == "kernels: tuned 3 calls"
    wins("nothing")
    assert tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path) == decisions


def test_what_the_budget_leaves_out_is_left_for_the_next_start(tmp_path: Path, wins: Winner) -> None:
    lines: list[str] = []
    wins("gemm")
    decisions = tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path, budget_sec=0)
    assert decisions == ({}, {}, {}) and lines[-1] == "kernels: tuned 0 calls; 3 are left for the next start"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"times": {"a": {"seconds": {"aten": -1}, "launches": {}}}}'])
def test_a_broken_file_of_times_costs_time_only(text: str, tmp_path: Path, wins: Winner) -> None:
    kept, lines = TimesFile(tmp_path, machine(CPU)), []
    kept.path.write_text(text)
    wins("gemm")
    decisions = tuned(calls(), CPU, EAGER, say=lines.append, folder=tmp_path)
    assert str(kept.path) in lines[0] and "tuned again" in lines[0]
    assert decisions.routes[SHAPE].name == "gemm" and kept.read()[1] is None


def test_a_table_of_another_machine_decides_once_its_best_was_found_right_here(tmp_path: Path, wins: Winner) -> None:
    there, here, file = tmp_path / "there", tmp_path / "here", tmp_path / "table.json"
    wins("gemm")
    decisions = tuned(calls(), CPU, EAGER, say=print, folder=there)
    assert export_times(file, CPU, there) == f"{file}: times of 3 calls on cpu"
    assert import_times(file, CPU, here).endswith(": 3 of 3 calls were new")
    wins("nothing")
    unchecked = tuned(calls(), CPU, EAGER, say=print, folder=here)
    assert unchecked.routes[SHAPE].name == "library", "no form of ours was found right on this machine"
    wins("gemm")
    assert tuned(calls(), CPU, EAGER, say=print, folder=here) == decisions
    assert "conv_gemm" in "".join(VerdictFile(here, machine(CPU)).read()[0])
    assert import_times(file, CPU, here).endswith(": 0 of 3 calls were new")


def test_a_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    with pytest.raises(UserError, match="found no times, expected those of an earlier --tune"):
        export_times(file, CPU, tmp_path)
    with pytest.raises(UserError, match="table.json.*expected a file of --export"):
        import_times(file, CPU, tmp_path)
    file.write_text(json.dumps({"device": "NVIDIA H100", "capability": "(9, 0)", "times": {}}))
    with pytest.raises(UserError, match=r"found times of NVIDIA H100 \(9, 0\), expected cpu"):
        import_times(file, CPU, tmp_path)
    file.write_text(json.dumps({"device": "cpu", "capability": "", "times": {"a": 1}}))
    with pytest.raises(UserError, match="found no table of times"):
        import_times(file, CPU, tmp_path)
