"""What follows from the times that were measured on a machine: the fastest way of each call, where it is clearly so."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .calls import Call
from .forms import take
from .routes import Route, shape_of, take_routes
from .selection import prefer_aten

MARGIN = 0.95
"""Of the default's time, that another way must stay below: noise decides nothing."""
WHOLE = {"conv2d", "conv_gemm"}
"""Ops that are not left to PyTorch for its time: conv2d as Triton is PyTorch's convolution already, with a cheaper
second derivative; conv_gemm is a route, which has a decision of its own."""

Seconds = Mapping[str, float]


class Timed(NamedTuple):
    """A call with the seconds of the ways that are right, and the keys of its launches by the form that they have."""

    call: Call
    seconds: Seconds
    launches: Mapping[str, Sequence[str]]


class Decisions(NamedTuple):
    """Routes by shape, forms by launch, and the ops that are left to PyTorch, with the reason."""

    routes: dict[tuple[Any, ...], Route]
    forms: dict[str, str]
    aten: dict[str, str]

    def apply(self) -> None:
        """Take them in this process."""
        take_routes(self.routes)
        for key, form in self.forms.items():
            take(key, form)
        for op, reason in self.aten.items():
            prefer_aten(op, reason)


def decide(timed: Iterable[Timed], device: torch.device) -> Decisions:
    """The decisions; of calls that share a launch or a shape, the one that comes first decides.

    Args:
        timed: Calls, the ones that matter most first.
        device: Where they were timed.
    """
    decisions = Decisions({}, {}, {})
    sums: dict[str, dict[str, float]] = {}
    for call, seconds, launches in timed:
        if not seconds:
            continue
        form, best_sec = _best_form(seconds)
        for key in launches.get(form, ()):
            decisions.forms.setdefault(key, form)
        if call.op == "conv_gemm":
            decisions.routes.setdefault(_shape(call, device), _route(seconds, best_sec))
        elif call.op not in WHOLE and best_sec is not None and "aten" in seconds:
            total = sums.setdefault(call.op, {"aten": 0.0, "triton": 0.0})
            total["aten"] += seconds["aten"]
            total["triton"] += best_sec
    for op, total in sums.items():
        if total["aten"] < MARGIN * total["triton"]:
            decisions.aten[op] = f"measured: aten {_micro(total['aten'])}, triton {_micro(total['triton'])}"
    return decisions


def _best_form(seconds: Seconds) -> tuple[str, float | None]:
    """The form to take, "" for the default, and its time; None where no form is right."""
    ours = {way.removeprefix("triton").removeprefix(", "): sec for way, sec in seconds.items() if _is_ours(way)}
    if not ours:
        return "", None
    best = min(ours, key=ours.__getitem__)
    default_sec = ours.get("")
    if default_sec is not None and ours[best] >= MARGIN * default_sec:
        best = ""
    return best, ours[best]


def _is_ours(way: str) -> bool:
    return way.partition(",")[0] == "triton"


def _route(seconds: Seconds, gemm_sec: float | None) -> Route:
    ways = {name: seconds[name] for name in ("library", "aten") if name in seconds}
    if gemm_sec is not None:
        ways["gemm"] = gemm_sec
    best = min(ways, key=ways.__getitem__)
    if "library" in ways and ways[best] >= MARGIN * ways["library"]:
        best = "library"
    return Route(best, "measured here: " + ", ".join(f"{name} {_micro(sec)}" for name, sec in ways.items()))


def _micro(sec: float) -> str:
    return f"{sec * 1e6:.4g} us"


def _shape(call: Call, device: torch.device) -> tuple[Any, ...]:
    x, weight = call.arguments["x"], call.arguments["weight"]
    return shape_of(device, x.dtype, weight.shape[2], weight.shape[1], weight.shape[0], x.shape[2])
