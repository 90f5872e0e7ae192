"""Ways to compute are timed in turns where they are right, and the fastest are taken where they clearly are."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast import kernels
from smartfast.kernels import forms, routes, selection, tune, use
from smartfast.kernels.calls import Call, recorded_calls
from smartfast.kernels.decisions import Decisions, Timed, decide
from smartfast.kernels.routes import routes_noted
from smartfast.kernels.runtime import record_launches
from smartfast.kernels.tune import Job, in_turns, measure

pytestmark = pytest.mark.skipif(torch.get_default_device().type != "cpu", reason="the stand-ins are of the CPU")

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_taken", {})
    monkeypatch.setattr(selection, "_faster_as_aten", {})
    monkeypatch.setattr(routes, "_table", {})


def convolution_calls() -> dict[str, Call]:
    """By op, what a modulated convolution asks for by every route."""
    x, weight, styles = (torch.zeros(shape, requires_grad=True) for shape in ((2, 16, 5, 7), (16, 16, 3, 3), (2, 16)))
    with use("aten"), routes_noted(everywhere=True), recorded_calls() as calls:
        kernels.modulated_conv2d(x, weight, styles, padding=1, act="lrelu", input_is_scaled=True)
    return {call.op: call for call in calls.values()}


class Clock:
    """A timer that gives seconds by which implementation and form a run takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, op: str, seconds: dict[str, float]) -> None:
        self.seconds, self.turns, self.ran = seconds, [], ""
        table = selection.implementations()[op]
        for name, right in list(table.items()):
            monkeypatch.setitem(table, name, self.noting(name, right))

    def noting(self, name: str, right: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(right)
        def noted(*args: Any, **options: Any) -> Any:
            form = forms._forced
            self.ran = f"triton, {form}" if name == "triton" and form else name
            return right(*args, **options)

        return noted

    def __call__(self, run: Callable[[], Any]) -> float:
        run()
        self.turns.append(self.ran)
        return self.seconds[self.ran]


def test_turns_alternate_and_the_median_counts() -> None:
    order: list[str] = []
    lasting = {"a": iter([9.0, 1.0, 1.5]), "b": iter([2.0, 2.5, 90.0])}
    runs = {name: (lambda name=name: order.append(name)) for name in lasting}

    def timer(run: Callable[[], Any]) -> float:
        run()
        return next(lasting[order[-1]])

    assert in_turns(runs, timer, rounds=3) == {"a": 1.5, "b": 2.5}
    assert order == ["a", "b"] * 3


def test_every_way_is_timed_both_ways_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"triton": 4.0, "triton, half the warps": 3.0, "triton, twice the warps": 2.0, "aten": 1.0}
    clock = Clock(monkeypatch, "finish", seconds)
    found = measure(Job(convolution_calls()["finish"]), CPU, clock)
    assert found.seconds == seconds
    assert found.problems == {way: None for way in seconds if way != "aten"}
    assert clock.turns == list(found.seconds) * tune.ROUNDS
    launched = {key.split()[0] for key in found.launches["half the warps"]}
    assert launched == {"finish_kernel", "finish_backward_kernel"}, "forward and gradients together"


def test_a_wrong_form_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    call, table = convolution_calls()["finish"], selection.implementations()["finish"]
    right = table["triton"]
    monkeypatch.setitem(table, "triton", lambda **k: right(**k) * (1.03 if forms._forced == "half the warps" else 1.0))
    found = measure(Job(call), CPU, lambda run: 1.0)
    assert "relative error" in (found.problems["triton, half the warps"] or "")
    assert set(found.seconds) == {"triton", "triton, twice the warps", "aten"}


def test_a_way_that_raises_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no algorithm\nfound")

    call = convolution_calls()["conv_gemm"]
    monkeypatch.setitem(selection.implementations()["conv_gemm"], "library", broken)
    found = measure(Job(call), CPU, lambda run: 1.0)
    assert found.problems["library"] == "RuntimeError: no algorithm found" and "library" not in found.seconds
    assert {"triton", "triton, half the pixels", "aten"} <= set(found.seconds)


def test_a_way_whose_time_is_known_is_only_checked() -> None:
    job = Job(convolution_calls()["finish"], only="triton, half the warps")
    found = measure(job, CPU, lambda run: 1 / 0)
    assert found == ({}, {"triton, half the warps": None}, {})


def timed(call: Call, launches: dict[str, list[str]] | None = None, **seconds: float) -> Timed:
    return Timed(call, {name.replace("_", ", ", 1).replace("_", " "): s for name, s in seconds.items()}, launches or {})


@pytest.mark.parametrize(
    ("seconds", "route"),
    [
        (dict(library=10.0, triton=9.0, aten=12.0), "gemm"),
        (dict(library=10.0, triton=9.6, aten=12.0), "library"),  # within the margin
        (dict(library=10.0, triton=12.0, triton_half_the_pixels=8.0, aten=12.0), "gemm"),
        (dict(library=10.0, triton=12.0, aten=6.0), "aten"),
        (dict(library=10.0, aten=11.0), "library"),  # gemm was wrong
    ],
)
def test_a_route_has_to_win(seconds: dict[str, float], route: str) -> None:
    decisions = decide([timed(convolution_calls()["conv_gemm"], **seconds)], CPU)
    ((shape, found),) = decisions.routes.items()
    assert shape == ("cpu", "float32", 3, 16, 16, 5) and found.name == route
    assert not decisions.aten and found.reason.startswith("measured here: library 1e+07 us")


def test_ops_are_left_to_pytorch_by_their_sum() -> None:
    finish, convolution = convolution_calls()["finish"], convolution_calls()["conv2d"]
    slow, quick = timed(finish, triton=1.0, aten=2.0), timed(finish, triton=10.0, aten=8.0)
    assert set(decide([slow, quick], CPU).aten) == {"finish"}
    assert not decide([slow, slow, quick], CPU).aten
    assert not decide([timed(convolution, triton=10.0, aten=1.0)], CPU).aten, "its second derivative is dearer"


def test_the_first_call_decides_for_a_launch_that_two_share() -> None:
    finish, keys = convolution_calls()["finish"], {"half the warps": ["k"]}
    first = timed(finish, keys, triton=10.0, triton_half_the_warps=5.0, aten=99.0)
    second = timed(finish, {"half the warps": ["k", "l"]}, triton=10.0, triton_half_the_warps=9.9, aten=99.0)
    assert decide([first, second], CPU).forms == {"k": "half the warps"}


def test_decisions_are_taken_by_launches_routes_and_ops() -> None:
    x, weight, styles = torch.ones(2, 16, 5, 7), torch.ones(16, 16, 3, 3), torch.ones(2, 16)

    def launched() -> dict[str, int]:
        with record_launches() as launches, use("triton"):
            kernels.modulated_conv2d(x, weight, styles, padding=1, input_is_scaled=True)
        return {launch.kernel.fn.__name__: launch.options["num_warps"] for launch in launches}

    before = launched()
    assert set(before) == {"finish_kernel"}
    found = measure(Job(convolution_calls()["conv_gemm"]), CPU, lambda run: 1.0)
    keys = {key: "half the warps" for key in found.launches["half the warps"]}
    shape = ("cpu", "float32", 3, 16, 16, 5)
    Decisions({shape: routes.Route("gemm", "measured")}, keys, {}).apply()
    assert launched() == {"conv_gemm_kernel": 2}
    Decisions({shape: routes.Route("aten", "measured")}, {}, {}).apply()
    assert launched() == {}
    Decisions({}, {}, {"finish": "measured: aten 1 us, triton 2 us"}).apply()
    text = ("aten", "auto takes plain PyTorch, measured: aten 1 us, triton 2 us")
    with use("auto"):
        assert selection.implementation_of("finish", "cuda") == text
        assert selection.implementation("finish", "triton") is selection.implementation("finish", "aten")
    with use("triton"):
        assert selection.implementation_of("finish", "cuda")[0] == "triton", "whatever was measured"


def test_a_gemm_that_is_switched_off_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_switched_off", {"conv_gemm": "wrong"})
    shape = ("cpu", "float32", 3, 16, 16, 5)
    Decisions({shape: routes.Route("gemm", "measured")}, {}, {}).apply()
    x, weight, styles = torch.ones(2, 16, 5, 7), torch.ones(16, 16, 3, 3), torch.ones(2, 16)
    text = kernels.explain("modulated_conv2d", x, weight, styles, padding=1, impl="triton")
    assert "route library" in text and "gemm is switched off" in text


def test_noting_routes_changes_no_number() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight, styles = (torch.randn(shape, generator=rng) for shape in ((2, 3, 5, 7), (4, 3, 3, 3), (2, 3)))
    with use("aten"):
        plain = kernels.modulated_conv2d(x, weight, styles, padding=1, act="lrelu", clamp=0.5)
        with routes_noted(everywhere=True):
            assert torch.equal(kernels.modulated_conv2d(x, weight, styles, padding=1, act="lrelu", clamp=0.5), plain)


def test_the_child_begins_nothing_beyond_its_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.0, 20.0, 40.0])
    monkeypatch.setattr(tune.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(tune, "measure", lambda *_: tune.Measured({"aten": 1.0}, {}, {}))
    tune.write_jobs([Job(convolution_calls()["finish"])] * 3, tmp_path / "jobs")
    tune.main([str(tmp_path / "jobs"), "cpu", "30"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("ends") for line in lines] == [None, 0, None, 1]
    assert lines[1]["seconds"] == {"aten": 1.0}
