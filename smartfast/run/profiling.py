"""Where the time of an iteration goes: a torch.profiler trace of some iterations of a run, and what it says.

trace.json.gz   for chrome://tracing or ui.perfetto.dev
profile.txt     top kernels by phase, waits of the host for the device, gaps between kernels
"""

import gzip
import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from smartfast.core.files import write_atomically

ITERATION = "iteration"
"""Name of the range around each profiled iteration; the ranges in it are named after their phases."""

_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "aten::item")
_TOP_KERNELS, _LONGEST_GAPS = 8, 5


class Span(NamedTuple):
    """Something with a name and a time, in microseconds of the trace's clock."""

    name: str
    start_us: float
    end_us: float


class Profile(NamedTuple):
    """What a trace says.

    where: "gpu", or "cpu" where the trace has no kernels of a GPU: operations then stand for kernels, by the time that
    they spend outside of operations that they call. iterations: How many. window_us: From the first one's start to the
    last one's end. kernels: (phase, kernel) to (calls, microseconds). waits: Calls by which the host waits for the
    device, by name. idle_us: In the window, without a kernel. gaps: The longest idle times, named after their phase.
    """

    where: str
    iterations: int
    window_us: float
    kernels: dict[tuple[str, str], tuple[int, float]]
    waits: Counter[str]
    idle_us: float
    gaps: list[Span]


class IterationProfiler:
    """Traces some iterations of a run.

    It is a context manager: leaving it ends a trace that still runs, with which Python would crash at its exit, and
    writes the iterations that it has, unless the run ends with an error.

    Args:
        iterations: How many, 0 = none.
        first: Iterations of this process before them; compilation and captures should be over by then.
        folder: Where trace.json.gz and profile.txt go, made where its parent is; None only counts, in processes beside
            the one that traces.
        say: Receives the summary.
    """

    def __init__(self, iterations: int, *, first: int, folder: Path | None, say: Callable[[str], None]) -> None:
        self.iterations, self.first, self.last = iterations, first, first + iterations - 1
        self.folder, self.say = folder, say
        self.count = 0
        self._profile: profile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.folder is None or self.is_done or not self.iterations:
            return
        traced, is_failure = max(self.count - self.first, 0), isinstance(error, Exception)
        if self._profile is not None:
            self._stop(self.folder if traced and not is_failure else None)
        if not is_failure:
            before_first = f"before iteration {self.first + 1}, the first to trace; no trace"
            ended = f"after {traced} of the {self.iterations} iterations to trace" if traced else before_first
            self.say(f"profile: the run ended {ended}")

    @property
    def is_done(self) -> bool:
        """Whether all iterations were traced."""
        return self.count > self.last

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Around each iteration of the run."""
        if self.folder is not None and self.first <= self.count <= self.last:
            with self._running(self.folder), record_function(ITERATION):
                yield
        else:
            yield
        self.count += 1

    @contextmanager
    def _running(self, folder: Path) -> Iterator[None]:
        if self._profile is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profile = profile(activities=activities, acc_events=True)
            self._profile.start()
        yield
        if self.count == self.last:
            self._stop(folder)

    def _stop(self, folder: Path | None) -> None:
        """End the trace and write it, None = it is not wanted."""
        assert self._profile is not None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        traced, self._profile = self._profile, None
        traced.stop()
        if folder is not None:
            self._write(traced, folder)

    def _write(self, traced: profile, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        trace = folder / "trace.json.gz"
        traced.export_chrome_trace(str(trace))
        with gzip.open(trace, "rt") as stream:
            text = describe(summarize(json.load(stream)["traceEvents"]))
        write_atomically(folder / "profile.txt", text.encode())
        self.say(f"{text}\ntrace: {trace}")


def summarize(events: Sequence[dict[str, Any]]) -> Profile:
    """Read the events of a Chrome trace of torch.profiler.

    Raises:
        ValueError: There is no range named ITERATION in it.
    """
    timed = [event for event in events if event.get("ph") == "X"]
    on_gpu = any(event.get("cat") in _GPU_WORK for event in timed)
    host = [event for event in timed if event.get("cat") == "user_annotation" and event["name"] == ITERATION]
    if not host:
        raise ValueError(f"the trace has no range {ITERATION!r}, expected at least one")
    thread = host[0]["tid"]
    here = [event for event in timed if event["tid"] == thread]
    if on_gpu:  # every stream has ranges of its own; those of the stream with the most kernels are the phases
        streams = Counter(event["tid"] for event in timed if event.get("cat") == "kernel")
        marks = [event for event in timed if event["tid"] == streams.most_common(1)[0][0]]
        ranges, work = _spans(marks, ("gpu_user_annotation",)), _spans(timed, _GPU_WORK)
    else:
        ranges, work = _spans(here, ("user_annotation",)), _spans(here, ("cpu_op",))
    iterations = [span for span in ranges if span.name == ITERATION]
    start_us, end_us = iterations[0].start_us, max(span.end_us for span in iterations)
    phases = _outermost(span for span in ranges if span.name != ITERATION)
    work = [span for span in work if start_us <= span.start_us < end_us]
    own_us = [span.end_us - span.start_us for span in work] if on_gpu else _self_times(work)
    kernels: dict[tuple[str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for span, us in zip(work, own_us, strict=True):
        key = (_phase_at(phases, span.start_us), span.name)
        kernels[key] = (kernels[key][0] + 1, kernels[key][1] + us)
    gaps = _gaps(work, start_us, end_us)
    named = [Span(_phase_at(phases, gap.start_us), gap.start_us, gap.end_us) for gap in gaps]
    return Profile(
        where="gpu" if on_gpu else "cpu",
        iterations=len(host),
        window_us=end_us - start_us,
        kernels=dict(kernels),
        waits=_waits(here, host),
        idle_us=sum(gap.end_us - gap.start_us for gap in gaps),
        gaps=sorted(named, key=lambda gap: gap.start_us - gap.end_us)[:_LONGEST_GAPS],
    )


def describe(result: Profile) -> str:
    """The summary for people."""
    kind, idle = ("kernels", "idle between kernels") if result.where == "gpu" else ("operations", "outside of them")
    lines = [
        f"{result.iterations} iterations, {result.window_us / result.iterations / 1000:.2f} ms each on the "
        f"{result.where}; {idle} {result.idle_us / result.window_us:.1%} of the time"
    ]
    by_phase: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for (phase, name), (calls, us) in result.kernels.items():
        by_phase[phase].append((us, calls, name))
    for phase, found in sorted(by_phase.items(), key=lambda item: -sum(us for us, _, _ in item[1])):
        total_us, calls = sum(us for us, _, _ in found), sum(calls for _, calls, _ in found)
        per_iteration = f"{total_us / result.iterations / 1000:.2f} ms and {calls / result.iterations:.0f} {kind}"
        lines.append(f"{phase}: {per_iteration} per iteration")
        for us, calls, name in sorted(found, reverse=True)[:_TOP_KERNELS]:
            lines.append(f"  {us / total_us:6.1%}  {us / calls:9.1f} us  x{calls:<6} {name[:90]}")
    waits = ", ".join(f"{name} x{count}" for name, count in result.waits.most_common()) or "none"
    lines.append(f"waits of the host for the device: {waits}")
    gaps = ", ".join(f"{gap.end_us - gap.start_us:.0f} us in {gap.name}" for gap in result.gaps) or "none"
    return "\n".join([*lines, f"longest gaps: {gaps}"])


def _waits(events: Sequence[dict[str, Any]], iterations: Sequence[dict[str, Any]]) -> Counter[str]:
    """Calls that wait for the device, of the thread that trains, within its iterations."""
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in iterations]
    found = [event for event in events if event["name"] in _WAITS]
    return Counter(event["name"] for event in found if any(start <= event["ts"] < end for start, end in spans))


def _spans(events: Sequence[dict[str, Any]], categories: Sequence[str]) -> list[Span]:
    found = [Span(e["name"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in categories]
    return sorted(found, key=lambda span: (span.start_us, -span.end_us))


def _phase_at(phases: Sequence[Span], time_us: float) -> str:
    """Which of the ranges, sorted and without overlaps, holds a moment."""
    before = bisect_right(phases, time_us, key=lambda span: span.start_us)
    return phases[before - 1].name if before and time_us < phases[before - 1].end_us else "between phases"


def _outermost(spans: Iterable[Span]) -> list[Span]:
    """Sorted spans without those that begin inside another one (an optimizer marks its steps in the phases)."""
    kept: list[Span] = []
    for span in spans:
        if not kept or span.start_us >= kept[-1].end_us:
            kept.append(span)
    return kept


def _self_times(spans: Sequence[Span]) -> list[float]:
    """Time of each span outside of those inside it; sorted by start, all of one thread."""
    own_us = [span.end_us - span.start_us for span in spans]
    open_spans: list[int] = []
    for i, span in enumerate(spans):
        while open_spans and spans[open_spans[-1]].end_us <= span.start_us:
            open_spans.pop()
        if open_spans:
            own_us[open_spans[-1]] -= span.end_us - span.start_us
        open_spans.append(i)
    return own_us


def _gaps(spans: Sequence[Span], start_us: float, end_us: float) -> list[Span]:
    """Times in the window that no span covers."""
    gaps, covered_us = [], start_us
    for span in spans:
        if span.start_us > covered_us:
            gaps.append(Span("", covered_us, span.start_us))
        covered_us = max(covered_us, span.end_us)
    if end_us > covered_us:
        gaps.append(Span("", covered_us, end_us))
    return gaps
