"""Threads for work on many images: reading, decoding and resizing all leave the interpreter lock."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

from smartfast.core.distributed import processes_on_this_machine

T = TypeVar("T")
R = TypeVar("R")
_IN_FLIGHT_PER_WORKER = 4
_SECONDS_BEFORE_BAR = 2.0


def default_workers(*, shared: bool = False) -> int:
    """Threads that keep this machine busy: one per core and a few that wait for the disk.

    Args:
        shared: All processes of the run call this and work at once, so that each takes its share of the cores.
    """
    processes = processes_on_this_machine() if shared else 1
    return min(32, (os.cpu_count() or 1) // processes + 4)


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, total: int, title: str, workers: int | None = None
) -> Iterator[R]:
    """`map` in threads, with results in order, few items in flight and a progress bar if it takes long.

    Args:
        function: Called once per item; its first exception in the order of the items is raised here.
        items: What to work on.
        total: Number of items, for the progress bar.
        title: Text of the progress bar.
        workers: Threads; None takes `default_workers()`.

    Returns:
        An iterator over the results.
    """
    workers = workers or default_workers()
    remaining = iter(items)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(
            total=total,
            desc=title,
            unit="img",
            delay=_SECONDS_BEFORE_BAR,
            leave=False,
            dynamic_ncols=True,
            disable=None,  # a file gets none
        ) as bar,
    ):
        pending: deque[Future[R]] = deque(
            pool.submit(function, item) for item in islice(remaining, workers * _IN_FLIGHT_PER_WORKER)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            bar.update()
            yield result
