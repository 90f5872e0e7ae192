"""What the trainer says about itself: the status line of a tick, the time of each phase, the memory in use."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import torch
from torch.profiler import record_function
from tqdm import tqdm

from smartfast.core.text import format_duration

_GIB = 2**30
_FIRST_TICKS, _SLOW_TICKS, _SLOW_FACTOR = 3, 2, 3.0
_PATIENCE_SEC = 60.0


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


def status_line(row: Mapping[str, float], width: int | None) -> str:
    """The line of one tick: the same columns first, `-` where the tick has no value, then the losses.

    Args:
        row: A tick row of metrics.jsonl.
        width: Columns of the terminal, values that do not fit are left out; None = all of them.
    """
    losses = sorted((n for n in row if n.startswith("loss/")), key=lambda name: (not name.endswith("_main"), name))
    cells = [
        f"tick {_number(row.get('tick'), '.0f'):<4}",
        f"kimg {_number(row.get('kimg'), '.1f'):<7}",
        f"time {_short_duration(row.get('time_sec')):<7}",
        f"left {_short_duration(row.get('left_sec')):<7}",
        f"s/kimg {_number(row.get('sec_per_kimg'), '.2f'):<5}",
        *([f"skipped {row['skipped_steps']:.0f}"] if row.get("skipped_steps") else []),
        *([f"warnings {row['warnings']:.0f}"] if row.get("warnings") else []),
        *([f"p {row['augment/p']:.3f}"] if "augment/p" in row else []),
        *([f"lambda {row['score/weight']:.3g}"] if "score/weight" in row else []),
        *(f"{n.removeprefix('loss/').removesuffix('_main')} {_number(row[n], '.3g'):<6}" for n in losses),
    ]
    while width is not None and len(" ".join(cells).rstrip()) >= width:
        cells.pop()
    return " ".join(cells).rstrip()


def progress_bar(images: int, total_images: int, *, is_shown: bool) -> tqdm:
    """The bar of a run that stands at `images`; at a terminal, where it is shown."""
    return tqdm(
        total=total_images,
        initial=images,
        unit="img",
        unit_scale=True,
        leave=False,
        disable=not (is_shown and sys.stderr.isatty()),
    )


class FirstTickWatch:
    """Says once how long the run will take where its first tick takes longer than a minute.

    Args:
        start_images: Images at which this process begins.
        tick_images, total_images: Of a tick and of the run.
    """

    def __init__(self, start_images: int, tick_images: int, total_images: int) -> None:
        self._start, self._total = start_images, total_images
        self._tick_end = (start_images // tick_images + 1) * tick_images
        self._told = False

    def line(self, images: int, sec: float) -> str | None:
        """What to say after the iteration that ends at `images` images, `sec` seconds of training after the start."""
        if self._told or sec <= _PATIENCE_SEC:
            return None
        self._told = True
        if images >= self._tick_end:
            return None
        kimg = (images - self._start) / 1000
        tick, run = (format_duration((end - images) / 1000 * sec / kimg) for end in (self._tick_end, self._total))
        return (
            f"pace: {kimg:.3g} kimg in {format_duration(sec)}, {sec / kimg:.4g} s/kimg: "
            f"the first tick in about {tick}, the end at {self._total / 1000:g} kimg in about {run}"
        )


class SlownessWatch:
    """Says once that ticks have become far slower than the run's own first ones, and what to do."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._told = device, False
        self._ticks: list[float] = []

    def remark(self, row: Mapping[str, float]) -> str | None:
        """What to say after a tick, by its row of metrics.jsonl; the first one, which warms up, does not count."""
        sec_per_kimg = row["sec_per_kimg"]
        self._ticks.append(sec_per_kimg)
        if self._told or len(self._ticks) < 1 + _FIRST_TICKS + _SLOW_TICKS:
            return None
        usual = statistics.median(self._ticks[1 : 1 + _FIRST_TICKS])
        self._told = min(self._ticks[-_SLOW_TICKS:]) > _SLOW_FACTOR * usual
        return self.text(sec_per_kimg, usual) if self._told else None

    def text(self, sec_per_kimg: float, usual: float) -> str:
        """The line itself, of seconds per thousand images now and at first."""
        if self._device.type == "cpu":
            advice = (
                f"see what else uses the cores, or lower perf.cpu_threads ({torch.get_num_threads()} now) and resume"
            )
        else:
            advice = "see what else uses the GPU or the disk; `smartfast profile` shows where the time goes"
        return f"slow: {sec_per_kimg:.3g} s/kimg now, {usual:.3g} of this run's first ticks: {advice}"


class Remarks:
    """Lines that a run says at most once each, of sources that look at every tick's row."""

    def __init__(self, *sources: Callable[[Mapping[str, float]], str | None]) -> None:
        self._sources = sources
        self._told: set[str] = set()

    def lines(self, row: Mapping[str, float]) -> list[str]:
        """What is new in this tick."""
        said = [line for source in self._sources if (line := source(row)) and line not in self._told]
        self._told.update(said)
        return said


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


def _short_duration(sec: float | None) -> str:
    """Its two largest units."""
    return "-" if sec is None else " ".join(format_duration(sec).split()[:2])


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
