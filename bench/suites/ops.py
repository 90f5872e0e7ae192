"""The ops suite: every op at every layer shape, against PyTorch's own operations, the compiler and the library.

Providers: `reference`, plain PyTorch; `compiled reference`, the same under torch.compile; `ours`, the Triton kernels,
and for modulated convolutions the route that `ours` did not take; `grouped convolution`, the library's kernel for
weights that differ from sample to sample; `copy`, for ops without matrix products, of as many bytes as the op must
move. On CUDA each is captured in a graph, as in training, and by default caches are emptied before every sample, as
other layers do it in training. Results are held against float64. Layers come in order of size, the largest first.
"""

import gc
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._pytree import tree_leaves

from bench.base.options import Options
from bench.base.paper_jobs import trainer_settings
from bench.base.results import Row, Run
from bench.base.timing import Failure, Timing, measure, relative_error
from bench.base.ways import COMPILED, COPY, GROUPED, OURS, REFERENCE, Captured, Compiled, with_capture
from bench.count.layers import Case
from bench.count.sizes import suite_cases
from bench.suites.op_cases import (
    MODES,
    Inputs,
    Mode,
    Op,
    Tensors,
    grouped_convolution,
    implementation,
    least_bytes,
    least_flops,
    modes_of,
    second_order,
)
from smartfast.config.schema import Config, PerfConfig
from smartfast.kernels import ROUTES, Route, measured_route, memory_format

LIMITS = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-2}
"""The largest relative error of a tensor; twice the reference's, where that is more."""
TF32_LIMIT = 2e-3
"""Of float32 on CUDA, whose products are tf32: 10 bits of mantissa."""
LARGEST_ERROR = 0.1
"""Of the reference: rounding moves numbers over the kinks of activations, whose derivatives jump."""
COMPILING = 0.75
"""Share of the time budget after which nothing more is compiled: it takes longer than all else, and the rest waits."""
QUICK_CASES = 3
_CONFIGS = {"cuda": ("lsun_bedroom256", "imagenet64", "cifar10", "stylegan2_128", "stylegan2_1024"), "cpu": ("digits",)}
"""In the order in which they are wanted: the time may not suffice for all."""
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def run(options: Options, results: Run) -> None:
    """Measure layers while the time budget lasts, all modes of a configuration first."""
    with trainer_settings(Config(perf=PerfConfig(precision="fp16")), options.device):
        for name in options.configs or _CONFIGS[options.device.type]:
            layers = suite_cases(name, options.device.type, options.overrides)
            layers = layers[: QUICK_CASES if options.quick else None]
            for mode in MODES:
                _measure_layers(name, [case for case in layers if mode in modes_of(case)], mode, options, results)


def every_call(device_type: str) -> list[Row]:
    """All calls that the suite measures by itself on a device if it has the time: what names them, and their flops."""
    return [
        {"config": name, "flops": least_flops(case, mode), **describe(case, mode)}
        for name in _CONFIGS[device_type]
        for case in suite_cases(name, device_type)
        for mode in modes_of(case)
    ]


def _measure_layers(name: str, cases: Sequence[Case], mode: Mode, options: Options, results: Run) -> None:
    could_compile = True
    for case in cases:
        place = f"{name}, {mode}, from {case.op} {case.layer} on"
        left_sec = options.time_left_sec()
        if not left_sec:
            results.skip(place)
            return
        compiles = left_sec > (1 - COMPILING) * options.budget_sec and not options.quick
        if could_compile and not compiles:
            results.skip(f"{COMPILED}: {place}")
        could_compile = compiles
        about = {"config": name, "cold": options.is_cold, **describe(case, mode)}
        with results.attempt(about):
            for row in measure_case(case, mode, options, results, compiles=compiles):
                results.add(about | row)
        gc.collect()


def measure_case(case: Case, mode: Mode, options: Options, results: Run, *, compiles: bool) -> list[Row]:
    """One row for each provider of an op, forward, with its gradients or with their gradients."""
    device = options.device
    truth = Inputs(case, device, torch.float64)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):  # a search that takes longer than the one call
        expected = truth.call(truth.bind(implementation(case, "reference")), mode)()
    inputs = Inputs(case, device)
    least = least_bytes(inputs, mode, expected)
    calls = calls_of(inputs, mode, device, compiles=compiles)
    if not least_flops(case, mode):
        calls[COPY] = copy_of(least, device)
    errors: dict[str, float] = {}

    def check(name: str, result: object) -> str | None:
        if name == COPY:
            return None
        pairs = zip(tree_leaves(result), tree_leaves(expected), strict=True)
        found = [relative_error(a, b) for a, b in pairs if b is not None]
        if not all(map(math.isfinite, found)):
            return "wrong: not finite"
        errors[name] = max(found)
        kind = _NAMES[case.x.dtype]
        usual = TF32_LIMIT if kind == "fp32" and device.type == "cuda" else LIMITS[kind]
        limit = max(usual, 2 * errors.get(REFERENCE, 0.0))
        limit = LARGEST_ERROR if name == REFERENCE else limit
        right = errors[name] <= limit
        return None if right else f"wrong: relative error {errors[name]:.3g}, expected at most {limit:.3g}"

    timing = options.trial or dict(warm_up_sec=0.01, min_sec=0.05)
    outcomes = measure(calls, device=device, check=check, cold=options.is_cold, **timing)
    about = _work(case, mode, least, results)
    rows = []
    for name, outcome in outcomes.items():
        call = calls[name]
        outcome = with_capture(outcome, call if isinstance(call, Captured) else None)
        rows.append({**about, "provider": name, "max_error": errors.get(name), **_figures(about, outcome)})
    return rows


def calls_of(inputs: Inputs, mode: Mode, device: torch.device, *, compiles: bool) -> dict[str, Callable[[], Any]]:
    """The providers, the reference first."""
    case, reference = inputs.case, inputs.bind(implementation(inputs.case, "reference"))
    ops = {REFERENCE: reference}
    if device.type == "cuda":
        ops[OURS] = inputs.bind(implementation(case, "triton"))
    if case.op == "modulated_conv2d":
        ops[GROUPED] = inputs.bind(grouped_convolution)
        if device.type == "cuda":
            ops |= {f"{OURS} by {route}": _by_route(ops[OURS], route) for route in _other_routes(ops[OURS], inputs)}
    calls = {name: inputs.call(op, mode) for name, op in ops.items()}
    if compiles:
        calls[COMPILED] = _compiled(inputs, reference, mode)
    if device.type == "cuda":
        return {name: Captured(call, device) for name, call in calls.items()}
    return calls


def _compiled(inputs: Inputs, op: Op, mode: Mode) -> Callable[[], Any]:
    """A second derivative is compiled with all that leads to it; the compiler makes a gradient by itself."""
    name = f"{inputs.case.op} {inputs.case}"
    if mode != "second_order":
        return inputs.call(Compiled(name, op), mode)
    whole = Compiled(name, partial(second_order, op))
    return lambda: whole(inputs.tensors, inputs.dy, inputs.upstream)


def copy_of(moved_bytes: int, device: torch.device) -> Callable[[], Any]:
    """A copy that reads and writes so many bytes together, which is the least that moves them."""
    source = torch.zeros(max(moved_bytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> torch.Tensor:
        return target.copy_(source)

    return Captured(copy, device) if device.type == "cuda" else copy


def _other_routes(op: Op, inputs: Inputs) -> list[str]:
    """Routes that could compute a modulated convolution and it does not take; aten is the reference beside them."""
    taken: list[Route] = []

    def noted(*shape: Any) -> Route:
        taken.append(measured_route(*shape))
        return taken[-1]

    with patch("smartfast.kernels.routes.measured_route", noted), torch.no_grad():
        op(inputs.tensors)
    return [route for route in ROUTES if taken and route not in (taken[0].name, "aten")]


def _by_route(op: Op, name: str) -> Op:
    """A modulated convolution by one of its routes, which can compute it."""

    def forced(tensors: Tensors) -> Any:
        with patch("smartfast.kernels.routes.measured_route", lambda *_: Route(name, "asked for")):
            return op(tensors)

    return forced


def describe(case: Case, mode: Mode) -> Row:
    """What is measured, as keys of a row."""
    return {
        "op": case.op,
        "layer": case.layer,
        "resolution": case.resolution,
        "batch": case.x.shape[0],
        "shape": "x".join(map(str, case.x.shape)),
        "dtype": _NAMES[case.x.dtype],
        "layout": "nhwc" if memory_format(case.x) == torch.channels_last else "nchw",
        "mode": mode,
    }


def _work(case: Case, mode: Mode, least: int, results: Run) -> Row:
    """Counted work and the least time for it."""
    flops, dtype = least_flops(case, mode), _NAMES[case.x.dtype]
    row: Row = {"flops": flops, "bytes": least}
    if results.limits is not None:
        # fp32 on CUDA is tf32, as trainer_settings for a preset in fp16
        kind = "tf32" if dtype == "fp32" and "tf32" in results.limits.flops_per_sec else dtype
        row["floor_sec"] = results.limits.floor_sec(flops=flops, dtype=kind, bytes_moved=least)
    return row


def _figures(about: Row, outcome: Timing | Failure) -> Row:
    """The outcome with rates: of the least bytes and operations, so that no needless pass looks like speed."""
    row = outcome.row()
    if isinstance(outcome, Timing):
        row["gb_per_sec"] = about["bytes"] / outcome.median_sec / 1e9
        row["tflop_per_sec"] = about["flops"] / outcome.median_sec / 1e12
        if "floor_sec" in about:
            row["share_of_limit"] = about["floor_sec"] / outcome.median_sec
    return row
