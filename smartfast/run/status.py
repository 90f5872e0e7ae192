"""What the trainer says about itself: the status line of a tick, the time of each phase, the memory in use."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import torch
from torch.profiler import record_function

from smartfast.core.text import format_duration

_GIB = 2**30


class Memory(NamedTuple):
    """Memory in use, in GiB; gpu is the largest amount allocated since the last look, 0 without a GPU."""

    cpu_gib: float
    gpu_gib: float


def memory_gib(device: torch.device | str = "cpu") -> Memory:
    """Memory of this process and its children (loader workers), and the peak on `device` since the last call."""
    process = psutil.Process()
    resident = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            resident += child.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the two calls
            continue
    gpu = 0
    if torch.device(device).type == "cuda":
        gpu = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    return Memory(resident / _GIB, gpu / _GIB)


def status_line(row: Mapping[str, float], phases: Sequence[str]) -> str:
    """The line of one tick, always with the same columns; `-` where the tick has no value.

    Args:
        row: A tick row of metrics.jsonl.
        phases: Names of the phases, in the order in which the line shows them.
    """
    cells = [
        f"tick {_number(row.get('tick'), '.0f'):<5}",
        f"kimg {_number(row.get('kimg'), '.1f'):<8}",
        f"time {format_duration(row['time_sec']) if 'time_sec' in row else '-':<12}",
        f"sec/tick {_number(row.get('sec_per_tick'), '.1f'):<7}",
        f"sec/kimg {_number(row.get('sec_per_kimg'), '.2f'):<7}",
        f"maintenance {_number(row.get('maintenance_sec'), '.1f'):<6}",
        f"cpumem {_number(row.get('cpu_mem_gib'), '.2f'):<6}",
        f"gpumem {_number(row.get('gpu_mem_gib'), '.2f'):<6}",
        f"img/s {_number(row.get('images_per_sec'), '.1f'):<7}",
        "ms",
        *(f"{phase} {_number(row.get(f'ms/{phase}'), '.1f'):<6}" for phase in phases),
        f"skipped {_number(row.get('skipped_steps'), '.0f')}",
    ]
    return " ".join(cells)


class PhaseTimer:
    """Mean time of each phase over a tick, and a range of its name in profiles.

    On a GPU it records events and waits for the device only in `read`, so that the loop never does.

    Args:
        device: Where the phases run.
        compile_sec: Time spent on compiling so far; a block in which it grows does not count.
    """

    def __init__(self, device: torch.device | str, compile_sec: Callable[[], float] = lambda: 0.0) -> None:
        self._compile_sec = compile_sec
        self._on_gpu = torch.device(device).type == "cuda"
        self._spans: dict[str, list[tuple]] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the `with` block as one run of `phase`; a block that raises does not count."""
        compile_sec, start = self._compile_sec(), self._now()
        with record_function(phase):
            yield
        if self._compile_sec() == compile_sec:
            self._spans.setdefault(phase, []).append((start, self._now()))

    def read(self) -> dict[str, float]:
        """`ms/<phase>`, mean milliseconds per run, and `count/<phase>`, runs since the last `read`; starts anew."""
        if self._on_gpu and self._spans:
            torch.cuda.synchronize()
        values: dict[str, float] = {}
        for phase, spans in self._spans.items():
            values[f"ms/{phase}"] = sum(self._milliseconds(*span) for span in spans) / len(spans)
            values[f"count/{phase}"] = len(spans)
        self._spans = {}
        return values

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _milliseconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) if self._on_gpu else (end - start) * 1000


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
