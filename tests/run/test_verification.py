"""What the verification of the kernels does with what its child process finds, and how it keeps it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smartfast.kernels import selection
from smartfast.kernels.bias_act.op import make_activation
from smartfast.kernels.calls import Call
from smartfast.run import verdicts
from smartfast.run.training import Training
from smartfast.run.verdicts import TimesFile, VerdictFile, machine, summary, switch_off_known
from smartfast.run.verification import calls_of, switch_off_all, verified

CPU = torch.device("cpu")
NO_CHILD = (sys.executable, "-c", "raise SystemExit('nothing starts here')")


def faulty(fault: str) -> tuple[str, ...]:
    return (sys.executable, str(Path(__file__).with_name("faulty_kernels.py")), fault)


def calls() -> list[Call]:
    x, b = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((2, 3, 4, 5), (3,)))
    activation = make_activation("lrelu", None, None, None)
    stream = torch.empty(2, dtype=torch.int64, device="meta")
    return [
        *(Call("bias_act", dict(x=x, b=bias, dim=1, activation=activation)) for bias in (b, None)),
        Call("philox_normal", dict(seed=3, stream=stream, count=5, purpose=0)),
    ]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("fault", "message"), [("crash", "the process ended with signal SIGSEGV"), ("hang", "no answer within 10 s")]
)
def test_a_child_that_is_lost_costs_its_op_alone(fault: str, message: str, tmp_path: Path) -> None:
    lines: list[str] = []
    problems = verified(calls(), CPU, say=lines.append, folder=tmp_path, limit_sec=10, child=faulty(fault))
    assert problems == {"bias_act": message}
    assert lines == ["kernels: verifying 3 calls of 2 ops on this machine, once"]
    assert verified(calls(), CPU, say=lines.append, folder=tmp_path, child=NO_CHILD) == problems
    assert len(lines) == 1, "neither call of an op that failed is asked for again"


@pytest.mark.parametrize("fault", ["without_memory", "without_compiler", "killed"])
def test_what_says_nothing_of_the_kernels_is_not_kept(fault: str, tmp_path: Path) -> None:
    """The op is off in this run; the next one asks again, as somebody may have installed what was missing."""
    lines: list[str] = []
    problems = verified(calls(), CPU, say=lines.append, folder=tmp_path, child=faulty(fault))
    assert problems.keys() == {"bias_act"}
    assert verified(calls(), CPU, say=lines.append, folder=tmp_path) == {}
    assert lines[1] == "kernels: verifying 2 calls of 1 ops on this machine, once"


def test_what_was_wrong_is_asked_again_by_who_wants_it(tmp_path: Path) -> None:
    said: list[str] = []
    assert verified(calls(), CPU, say=said.append, folder=tmp_path, child=faulty("crash"))
    assert verified(calls(), CPU, say=said.append, folder=tmp_path, child=NO_CHILD)
    assert verified(calls(), CPU, say=said.append, folder=tmp_path, again=True) == {}
    assert verified(calls(), CPU, say=said.append, folder=tmp_path, child=NO_CHILD) == {}


def test_commands_that_draw_know_what_was_found_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_switched_off", {})
    monkeypatch.setattr(verdicts, "default_cache_dir", lambda: tmp_path)
    monkeypatch.setattr(verdicts, "machine", lambda device: {"device": "a GPU"})
    wrong = {"conv2d(x=float32[2])": None, "bias_act(x=float32[2])": "no answer within 10 s"}
    VerdictFile(tmp_path / "kernels", {"device": "a GPU"}).write(wrong | {"phase d_r1 of 0 over 1": "runs eagerly"})
    switch_off_known(CPU)
    assert selection._switched_off == {}
    switch_off_known(torch.device("cuda"))
    assert selection._switched_off == {"bias_act": "its Triton kernels failed on this machine: no answer within 10 s"}


def test_a_machine_without_triton_has_verdicts_of_its_own() -> None:
    code = "import sys; sys.modules['triton'] = None; import smartfast.run.launch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_right_is_asked_once(tmp_path: Path) -> None:
    lines: list[str] = []
    assert verified(calls(), CPU, say=lines.append, folder=tmp_path) == {}
    assert len(lines) == 1
    assert verified(calls(), CPU, say=lines.append, folder=tmp_path, child=NO_CHILD) == {}
    assert len(lines) == 1


def broken_files(kept: VerdictFile) -> dict[str, Callable[[], object]]:
    def write(text: str) -> Callable[[], object]:
        return lambda: kept.path.write_text(text)

    verdicts = {call.content: None for call in calls()}
    return {
        "cut off": write('{"machine"'),
        "binary": lambda: kept.path.write_bytes(b"\xff\x00"),
        "a list": write("[]"),
        "of another machine": write(json.dumps({"machine": kept.machine | {"torch": "1"}, "verdicts": verdicts})),
        "of other values": write(json.dumps({"machine": kept.machine, "verdicts": {"x": 1}})),
        "a folder": lambda: kept.path.mkdir(),
    }


@pytest.mark.parametrize("state", list(broken_files(VerdictFile(Path(), {}))))
def test_a_broken_file_of_verdicts_is_told_and_not_believed(state: str, tmp_path: Path) -> None:
    kept = VerdictFile(tmp_path, machine(CPU))
    broken_files(kept)[state]()
    verdicts, complaint = kept.read()
    assert verdicts == {} and complaint is not None and str(kept.path) in complaint
    complaint = kept.write({"a": None, "b": "wrong"})
    if state == "a folder":
        assert complaint is not None and str(kept.path) in complaint
    else:
        assert complaint is None and kept.read() == ({"a": None, "b": "wrong"}, None)


def test_what_is_known_of_a_machine_is_told_op_by_op(tmp_path: Path) -> None:
    verdicts = {
        "finish(z=float32[2])": "no answer within 10 s",
        "conv2d(x=float32[2])": None,
        "conv2d(x=float32[2]) as triton, half the warps": "result: relative error 0.1",
        "phase d_r1 of 0123 over 1": "d_r1 runs eagerly, for its gradient was off",
    }
    assert summary(CPU, tmp_path) == ["on cpu: 0 verified, 0 calls timed"]
    VerdictFile(tmp_path, machine(CPU)).write(verdicts)
    TimesFile(tmp_path, machine(CPU)).write({"eager: x": {"seconds": {"aten": 1.0}, "launches": {}}})
    assert summary(CPU, tmp_path) == [
        "on cpu: 4 verified, 1 calls timed",
        "finish is switched off, its Triton kernels failed: no answer within 10 s",
        "d_r1 runs eagerly, for its gradient was off",
    ]


def test_no_child_process_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    assert verified(calls(), CPU, say=lines.append, folder=tmp_path, child=NO_CHILD) == {}
    assert "could not be verified" in lines[-1] and not list(tmp_path.iterdir())


def test_an_op_that_failed_is_switched_off_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_switched_off", {})
    lines: list[str] = []
    switch_off_all({"bias_act": "result: relative error 0.03"}, lines.append)
    assert lines == [
        "kernels: bias_act runs as plain PyTorch, for its Triton kernels failed on this machine: "
        "result: relative error 0.03 (`smartfast doctor --verify` asks again)"
    ]
    assert selection.implementation_of("bias_act", "cuda")[0] == "aten"
    assert selection.implementation_of("finish", "cuda")[0] == "triton"


def test_the_calls_of_a_training_are_noted_and_nothing_is_computed(tiny_training: Callable[..., Training]) -> None:
    training = tiny_training()
    before = {name: network.parameters.flat.clone() for name, network in training.networks.items()}
    ops = {call.op for call in calls_of(training)}
    assert {"finish", "conv2d", "upfirdn2d", "philox_normal", "noise_forward"} <= ops
    for name, network in training.networks.items():
        assert torch.equal(network.parameters.flat, before[name]) and not network.gradient.any()
