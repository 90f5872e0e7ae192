"""Time the ways to compute what a run asks of the ops, on the device at hand: implementations, routes, kernels' forms.

    python -m smartfast.kernels.tune JOBS DEVICE BUDGET_SEC

is the child process that `smartfast.run.tuning` starts, and kills: it does the jobs in a file of `write_jobs` one after
the other while its budget lasts, and prints a line of JSON before each, {"begins": index}, and one behind it,
{"ends": index, ...} with the fields of `Measured`. A way is timed only where it is right, forward and gradients
together, in turns with the others.
"""

import json
import math
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .calls import Call
from .forms import DEFAULT, forced
from .selection import implementations
from .verify import Flat, problem_of

ROUNDS = 7
"""Turns of every way, of which the median counts."""
LEAST_SEC = 1e-3
"""Of one turn, in which a way runs several times if it is shorter."""
MOST_RUNS = 100

Run = Callable[[], Any]
Timer = Callable[[Run], float]


class Job(NamedTuple):
    """A call to be timed as a run has it, and the ways that are known to be right.

    compiled: Whether PyTorch's own functions are compiled. captured: Whether a CUDA graph is replayed. tf32: Whether
    float32 may be multiplied so. only: A way that is checked and not timed, for its time is known from elsewhere; None
    = all are timed.
    """

    call: Call
    compiled: bool = False
    captured: bool = False
    tf32: bool = False
    right: frozenset[str] = frozenset()
    only: str | None = None


class Measured(NamedTuple):
    """What was found of a call, by way: "aten", "triton", "triton, NAME" for a form of its kernels, or another route.

    seconds: Of those that are right. problems: None, or what is wrong, of those that were checked. launches: The keys
    of the launches that have a form, by its name.
    """

    seconds: dict[str, float]
    problems: dict[str, str | None]
    launches: dict[str, list[str]]


def way_of(form: str) -> str:
    """The name of the way of a form of an op's Triton kernels."""
    return "triton" if form == DEFAULT else f"triton, {form}"


def measure(job: Job, device: torch.device, timer: Timer) -> Measured:
    """Check and time every way to compute a call; one that raises has a problem and no time."""
    if job.only is not None:
        with forced(job.only.removeprefix("triton").removeprefix(", ")):
            return Measured({}, {job.only: problem_of(job.call, device)}, {})
    torch.compiler.reset()  # forms of one function are compiled a few times, and then run eagerly
    filled = job.call.filled(device, seed=1)
    problems: dict[str, str | None] = {}
    launches = _launches(filled)
    runs: dict[str, Run] = {}
    for form in [DEFAULT, *launches]:
        way = way_of(form)
        if way not in job.right:
            with forced(form):
                problems[way] = problem_of(job.call, device)
        if problems.get(way) is None:
            _add(runs, problems, way, partial(_run, filled, "triton", form, job))
    for name in implementations()[job.call.op]:
        if name != "triton":
            _add(runs, problems, name, partial(_run, filled, name, DEFAULT, job))
    return Measured(in_turns(runs, timer), problems, launches)


def in_turns(runs: Mapping[str, Run], timer: Timer, rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, timed in turns (A B A B), so that a clock that drifts drifts for all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timer(run))
    return {name: statistics.median(values) for name, values in times.items()}


def _add(runs: dict[str, Run], problems: dict[str, str | None], way: str, make: Callable[[], Run]) -> None:
    try:
        runs[way] = make()
    except Exception as error:  # of a compiler or a launch: a way that does not run is not taken
        problems[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _launches(filled: Call) -> dict[str, list[str]]:
    """Keys of the launches that have a form, by its name; from one run in the default form."""
    found: dict[str, list[str]] = {}
    with forced(DEFAULT) as asked:
        _both_passes(filled, "triton")()
        for key, names in asked.items():
            for name in names:
                if name != DEFAULT:
                    found.setdefault(name, []).append(key)
    return found


def _run(filled: Call, name: str, form: str, job: Job) -> Run:
    """What is timed; it has run before, so that nothing is compiled any more."""
    passes = _both_passes(filled, name, compiled=job.compiled and name == "aten")

    def run() -> None:
        with forced(form):
            passes()

    run()
    return _captured(run) if job.captured else run


def _both_passes(filled: Call, name: str, *, compiled: bool = False) -> Run:
    """The call by an implementation, and its gradients if it has any."""
    flat = Flat.of(filled)
    inputs = [flat.values[index] for index in flat.inputs]

    def forward(*inputs: Tensor) -> Tensor:
        return flat.run(name, 0, *inputs)

    function = torch.compile(forward, dynamic=False) if compiled else forward
    upstream = torch.ones_like(function(*inputs).detach())

    def run() -> None:
        y = function(*inputs)
        if flat.order > 0:
            torch.autograd.grad(y, inputs, upstream, allow_unused=True)

    return run


def _captured(run: Run) -> Run:
    """A CUDA graph of what has run before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timer_of(device: torch.device) -> Timer:
    """Seconds of one run: the mean of as many as fill LEAST_SEC."""

    def timer(run: Run) -> float:
        first = _elapsed(run, 1, device)
        runs = min(max(math.ceil(LEAST_SEC / max(first, 1e-9)), 1), MOST_RUNS)
        return first if runs == 1 else _elapsed(run, runs, device) / runs

    return timer


def _elapsed(run: Run, runs: int, device: torch.device) -> float:
    if device.type != "cuda":
        start_sec = time.perf_counter()
        for _ in range(runs):
            run()
        return time.perf_counter() - start_sec
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def size_of(call: Call) -> int:
    """Bytes of a call's tensors: what is larger is worth more of the budget."""
    tensors = tree_leaves(call.arguments)
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def write_jobs(jobs: Sequence[Job], file: Path) -> None:
    """What the child process is to do, for `main`."""
    file.write_bytes(pickle.dumps(jobs))


def main(arguments: Sequence[str]) -> None:
    """Do jobs one after the other; see above."""
    file, device, budget_sec = Path(arguments[0]), torch.device(arguments[1]), float(arguments[2])
    torch.set_default_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # events and streams are of the current device
    jobs: list[Job] = pickle.loads(file.read_bytes())  # our own parent wrote it
    if jobs:  # all of them are of one run
        torch.backends.cudnn.allow_tf32 = jobs[0].tf32
        torch.set_float32_matmul_precision("high" if jobs[0].tf32 else "highest")
    torch.backends.cudnn.benchmark = True
    timer, start_sec = timer_of(device), time.perf_counter()
    for index, job in enumerate(jobs):
        if time.perf_counter() - start_sec >= budget_sec:
            return
        print(json.dumps({"begins": index}), flush=True)
        measured = measure(job, device, timer)
        print(json.dumps({"ends": index, **measured._asdict()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
