"""Processes that train in step hear of what one of them knows in the same iteration, and soon by the clock."""

import threading
from collections.abc import Callable

import pytest
import torch

from smartfast.core import agreement as agreement_module
from smartfast.core.agreement import Agreement

CPU = torch.device("cpu")


class Group:
    """Stands in for torch.distributed and the clock: processes are threads, and every iteration takes what it is told.

    Args:
        pace: Seconds of an iteration by the process's number and the iteration's.
    """

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, size: int, pace: Callable[[int, int], float]) -> None:
        self.size, self.pace = size, pace
        self.barrier, self.local = threading.Barrier(size), threading.local()
        self.tensors: list[torch.Tensor] = [torch.empty(0)] * size
        self.comparisons = 0

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return self.size

    def all_reduce(self, tensor: torch.Tensor, operation: object) -> None:
        assert operation == self.ReduceOp.MAX
        self.tensors[self.local.rank] = tensor.clone()
        self.barrier.wait(10)
        tensor.copy_(torch.stack(self.tensors).amax(0))
        if self.barrier.wait(10) == 0:
            self.comparisons += 1

    def perf_counter(self) -> float:
        return self.local.sec

    def run(self, noted_at: dict[int, int], iterations: int) -> list[tuple[int, float] | None]:
        """For each process the iteration and the time at which it hears of a note; `noted_at`: rank -> iteration."""
        heard: list[tuple[int, float] | None] = [None] * self.size

        def process(rank: int) -> None:
            self.local.rank, self.local.sec = rank, 0.0
            agreement = Agreement(CPU)
            for iteration in range(iterations):
                self.local.sec += max(self.pace(each, iteration) for each in range(self.size))  # they train in step
                number = 12 if iteration >= noted_at.get(rank, iterations) else 0
                agreed, other = agreement.on(number, 0)
                assert other == 0
                if agreed:
                    assert agreed == 12
                    heard[rank] = iteration, self.local.sec
                    return

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return heard


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Group]:
    def make(size: int, pace: Callable[[int, int], float]) -> Group:
        made = Group(size, pace)
        monkeypatch.setattr(agreement_module, "dist", made)
        monkeypatch.setattr(agreement_module, "time", made)
        return made

    return make


@pytest.mark.parametrize("noted_at", [{0: 0}, {1: 777}, {0: 500, 2: 503}], ids=str)
@pytest.mark.parametrize("sec", [0.001, 0.03, 0.4, 7.0])
def test_all_hear_of_it_in_one_iteration_and_soon(group: Callable, sec: float, noted_at: dict[int, int]) -> None:
    made = group(3, lambda rank, iteration: sec)
    first = min(noted_at.values())
    (iteration, heard_sec), *others = made.run(noted_at, 1200)
    assert all(other == (iteration, heard_sec) for other in others)
    assert heard_sec - (first + 1) * sec <= max(0.5, sec) + 1e-6


@pytest.mark.parametrize("factor", [2, 10, 18])
def test_iterations_that_become_slow_at_once_do_not_hold_it_up(group: Callable, factor: int) -> None:
    """Another job on the machine; first iterations of phases that compile."""
    made = group(2, lambda rank, iteration: 0.01 * (factor if iteration >= 400 and rank else 1))
    (_, heard_sec), _ = made.run({1: 400}, 1000)
    assert heard_sec - 4.0 - 0.01 * factor <= 10


def test_few_iterations_compare(group: Callable) -> None:
    made = group(2, lambda rank, iteration: 0.01)
    made.run({0: 999}, 1000)
    assert made.comparisons <= 1000 * 0.01 / 0.5 + 10


def test_one_process_hears_at_once() -> None:
    agreement = Agreement(CPU)
    assert agreement.on(0, 3) == [0, 3] and agreement.on(15, 0, now=True) == [15, 0]
