"""What processes that train in step do in the same iteration although only one of them knows of it."""

import time

import torch
import torch.distributed as dist

_AGREEMENT_SEC = 0.5
_MAX_ITERATIONS = 64


class Agreement:
    """Compares notes of the processes about twice a second; with one process it costs nothing.

    The processes have to compare in the same iteration, so time is counted in iterations, by the slowest one since the
    last comparison and carefully: the next comparison is at most twice as far away as the last one was.

    Args:
        device: Where the notes travel.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_alone = not dist.is_initialized() or dist.get_world_size() == 1
        self._every, self._calls, self._slowest_sec = 1, 0, 0.0
        self._last_sec = time.perf_counter()

    def on(self, *notes: int, now: bool = False) -> list[int]:
        """The largest of each note over all processes, each of which has to call this, equally often; else zeros.

        Args:
            notes: Whole numbers from 0 to 2**24, equally many in each process.
            now: Compare here, whatever the time; in every process.
        """
        if self._is_alone:
            return list(notes)
        sec = time.perf_counter()
        self._slowest_sec = max(self._slowest_sec, sec - self._last_sec)
        self._last_sec = sec
        self._calls += 1
        if self._calls < self._every and not now:
            return [0] * len(notes)
        shared = torch.tensor([*notes, self._slowest_sec], device=self._device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        *agreed, slowest_sec = shared.tolist()
        self._every = max(1, min(_MAX_ITERATIONS, 2 * self._every, int(_AGREEMENT_SEC / max(slowest_sec, 1e-6))))
        self._calls, self._slowest_sec, self._last_sec = 0, 0.0, time.perf_counter()
        return [round(note) for note in agreed]
