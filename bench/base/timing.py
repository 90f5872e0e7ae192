"""Time several ways to compute the same thing side by side: warmed, checked for correctness, in turns.

Every way is a provider, a function. All providers are compiled, checked and warmed before any is timed; then they run
in rounds, in random order within each round, so that a change of the clock or a neighbour's load meets all of them. On
CUDA, device events take the time; elsewhere a clock does.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from smartfast.errors import UserError

Provider = Callable[..., object]
Check = Callable[[str, object], str | None]

SAMPLE_SEC = 1e-3
"""A sample is as many calls as take this long, so that neither the clock nor the first launch shows in it."""

COLD_CPU_BYTES = 256 << 20
COLD_CACHES = 4


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median and the quantiles 0.2 and 0.8 over `repeats` samples of `calls` calls each.

    peak_bytes: The most memory that one call held at once beyond what was allocated before it, its result included;
        the replay of a CUDA graph allocates nothing. None where nobody looked.
    """

    median_sec: float
    p20_sec: float
    p80_sec: float
    repeats: int
    calls: int
    peak_bytes: int | None

    def row(self) -> dict[str, Any]:
        """The keys of a result's row."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """Why a provider got no time: an exception, or a wrong result."""

    error: str

    def row(self) -> dict[str, Any]:
        """The keys of a result's row."""
        return asdict(self)


@dataclass
class _Lane:
    """One provider on its way through a measurement."""

    name: str
    call: Callable[[], object]
    calls: int = 1
    peak_bytes: int | None = None
    samples_sec: list[float] = field(default_factory=list)
    error: str | None = None

    def attempt(self, action: Callable[["_Lane"], object]) -> None:
        """Do something with the provider, unless it has failed; an exception is its result, not the measurement's."""
        if self.error is None:
            try:
                action(self)
            except Exception as exception:
                self.error = f"{type(exception).__name__}: {exception}"

    def outcome(self) -> Timing | Failure:
        if self.error is not None:
            return Failure(self.error)
        return summary(self.samples_sec, calls=self.calls, peak_bytes=self.peak_bytes)


def measure(
    providers: Mapping[str, Provider],
    *,
    device: torch.device,
    warm_up_sec: float = 0.1,
    min_sec: float = 0.5,
    min_repeats: int = 10,
    check: Check | None = None,
    rotate: Sequence[tuple[Any, ...]] = ((),),
    cold: bool = False,
    peak: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing | Failure]:
    """Time providers in turns.

    Args:
        providers: Functions to time, by name; what they return is checked once and otherwise dropped.
        device: Where they run; cuda or cpu.
        warm_up_sec: How long each provider runs before any is timed, after a first call, which compiles and is checked.
        min_sec: All rounds together take at least this long, per provider.
        min_repeats: At least so many rounds.
        check: Gets a provider's name and its first result, for rotate[0]; returns why the result is wrong, or None.
        rotate: Sets of positional arguments; every call of a provider takes the next set. Sets that do not fit in the
            cache together keep it from serving one call what the call before left there.
        cold: Every sample is one call, and a buffer larger than the caches is read before it.
        peak: Measure a call's memory.
        clock: Seconds, where device is not CUDA; time.process_time leaves out other processes' load.

    Returns:
        For every provider its time, or why it has none. The exception of one provider does not stop the others.
    """
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"device is {device}, expected cuda or cpu")
    stopwatch = _Stopwatch(device, clock)
    lanes = [_Lane(name, _rotating(provider, rotate)) for name, provider in providers.items()]
    for lane in lanes:
        lane.attempt(lambda lane: _first_call(lane, check))
        lane.attempt(lambda lane: _warm_up(lane, stopwatch, warm_up_sec))
        if peak:
            lane.attempt(lambda lane: _measure_peak(lane, device))
        lane.calls = 1 if cold else lane.calls
    _rounds(lanes, stopwatch, min_sec * len(lanes), min_repeats, _Evictor(device) if cold else None)
    return {lane.name: lane.outcome() for lane in lanes}


def summary(samples_sec: Sequence[float], *, calls: int = 1, peak_bytes: int | None = None) -> Timing:
    """What samples of `calls` calls each, in seconds per call, come to."""
    p20, median, p80 = np.quantile(samples_sec, [0.2, 0.5, 0.8]).tolist()
    return Timing(median, p20, p80, len(samples_sec), calls, peak_bytes)


def differs(a: Timing, b: Timing) -> bool:
    """Whether two times differ by more than their spread: their ranges from quantile 0.2 to 0.8 do not overlap."""
    return a.p80_sec < b.p20_sec or b.p80_sec < a.p20_sec


def agrees_with(expected: object, max_error: float) -> Check:
    """A check: the relative error of a result's tensors, all together, is at most max_error.

    Args:
        expected: Tensor, or nested tuples, lists and dictionaries of them, in higher precision than the results.
        max_error: The largest ||result - expected|| / ||expected||; NaN never passes.
    """

    def check(name: str, result: object) -> str | None:
        error = relative_error(result, expected)
        return None if error <= max_error else f"wrong: relative error {error:.3g}, expected at most {max_error:.3g}"

    return check


def relative_error(result: object, expected: object) -> float:
    """||result - expected|| / ||expected|| over all tensors of two structures, in float64.

    Raises:
        ValueError: Another number of tensors, or other shapes.
    """
    results, wanted = _tensors(result), _tensors(expected)
    if [x.shape for x in results] != [x.shape for x in wanted]:
        raise ValueError(f"shapes are {[list(x.shape) for x in results]}, expected {[list(x.shape) for x in wanted]}")
    difference = sum(float((x.to(y.device) - y).square().sum()) for x, y in zip(results, wanted, strict=True))
    norm = sum(float(y.square().sum()) for y in wanted)
    return (difference / norm) ** 0.5 if norm else float("inf") if difference else difference


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that one call held at once beyond those before it, its result included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, *np.cumsum(changes).tolist()) if changes else 0


class _Stopwatch:
    """Times calls that follow each other: `start`, `stop`, and `read` for all pairs since the last read."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self.device, self.clock = device, clock
        self.is_cuda = device.type == "cuda"
        self.marks: list[tuple[Any, Any]] = []

    def wall_sec(self) -> float:
        """The time, with all work on the device done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def mark(self) -> Any:
        """A point in the device's work."""
        if not self.is_cuda:
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def sample(self, call: Callable[[], object], calls: int) -> None:
        """Time some calls."""
        start = self.mark()
        for _ in range(calls):
            call()
        self.marks.append((start, self.mark()))

    def read(self) -> list[float]:
        """Seconds of every sample since the last reading."""
        marks, self.marks = self.marks, []
        if not self.is_cuda:
            return [end - start for start, end in marks]
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) / 1e3 for start, end in marks]


class _Evictor:
    """Reads a buffer larger than the caches; what it wrote would be written back within the sample."""

    def __init__(self, device: torch.device) -> None:
        size = COLD_CPU_BYTES
        if device.type == "cuda":
            size = COLD_CACHES * torch.cuda.get_device_properties(device).L2_cache_size
        self.buffer = torch.zeros(size // 4, device=device)

    def __call__(self) -> None:
        self.buffer.sum()


def _rotating(provider: Provider, sets: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    rotation: Iterator[tuple[Any, ...]] = cycle(sets)
    return lambda: provider(*next(rotation))


def _first_call(lane: _Lane, check: Check | None) -> None:
    """What compiles; the result is held against the truth."""
    result = lane.call()
    if check is not None:
        lane.error = check(lane.name, result)


def _warm_up(lane: _Lane, stopwatch: _Stopwatch, warm_up_sec: float) -> None:
    """Call until the time has passed, and find how many calls make a sample."""
    calls, start_sec = 1, stopwatch.wall_sec()
    while True:
        last_sec = stopwatch.wall_sec()
        for _ in range(calls):
            lane.call()
        end_sec = stopwatch.wall_sec()
        if end_sec - start_sec >= warm_up_sec:
            break
        calls *= 2
    lane.calls = max(1, round(SAMPLE_SEC * calls / (end_sec - last_sec)))


def _measure_peak(lane: _Lane, device: torch.device) -> None:
    lane.peak_bytes = peak_bytes(lane.call, device)


def _rounds(
    lanes: Sequence[_Lane], stopwatch: _Stopwatch, min_sec: float, min_repeats: int, evict: Callable[[], None] | None
) -> None:
    """Fill the lanes' samples."""

    def sample(lane: _Lane) -> None:
        if evict is not None:
            evict()  # the sample's launches are queued behind it, where a cold call is captured in a graph
        else:
            stopwatch.wall_sec()  # launches queued behind another provider's work would cost nothing
        stopwatch.sample(lane.call, lane.calls)

    order = random.Random(0)
    gc.collect()
    end_sec = time.perf_counter() + min_sec
    rounds = 0
    while rounds < min_repeats or time.perf_counter() < end_sec:
        able = [lane for lane in lanes if lane.error is None]
        if not able:
            return
        shuffled = order.sample(able, len(able))
        for lane in shuffled:
            lane.attempt(sample)
        done = [lane for lane in shuffled if lane.error is None]
        for lane, sec in zip(done, stopwatch.read(), strict=True):
            lane.samples_sec.append(sec / lane.calls)
        rounds += 1


def _tensors(structure: object) -> list[Tensor]:
    return [leaf.detach().double() for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]
