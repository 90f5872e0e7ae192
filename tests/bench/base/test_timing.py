"""The harness measures known costs right, gives wrong results no time, and calls what lies inside the spread noise."""

import time
from collections.abc import Iterator

import pytest
import torch

from bench.base.timing import Failure, Timing, agrees_with, differs, measure, peak_bytes, relative_error

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_sleep_takes_its_time() -> None:
    outcome = measure({"sleep": lambda: time.sleep(0.1)}, device=CPU, warm_up_sec=0, min_sec=0, min_repeats=7)["sleep"]
    assert isinstance(outcome, Timing)
    assert outcome.median_sec == pytest.approx(0.1, rel=0.05)
    assert outcome.repeats == 7 and outcome.calls == 1


def test_a_doubled_operation_takes_twice_the_time() -> None:
    x = torch.randn(192, 192)

    def once() -> torch.Tensor:
        return x @ x

    def twice() -> torch.Tensor:
        once()
        return once()

    # The process's own time: on a busy machine, others' turns on the core are no cost of the operation.
    outcomes = measure({"once": once, "twice": twice}, device=CPU, min_sec=0.7, clock=time.process_time)
    once_sec, twice_sec = (outcome.median_sec for outcome in outcomes.values() if isinstance(outcome, Timing))
    assert twice_sec / once_sec == pytest.approx(2, rel=0.05)


def test_a_sample_of_short_calls_holds_many_and_gives_the_time_of_one() -> None:
    outcome = measure({"sleep": lambda: time.sleep(1e-4)}, device=CPU, min_sec=0.05)["sleep"]
    assert isinstance(outcome, Timing)
    assert 2 <= outcome.calls <= 10
    assert 1e-4 <= outcome.median_sec < 5e-4


def test_wrong_results_and_exceptions_get_no_time_and_stop_nobody() -> None:
    x = torch.randn(8, 8)
    providers = {
        "right": lambda: x @ x,
        "wrong": lambda: (x @ x).T,
        "nan": lambda: x @ x * float("nan"),
        "another shape": lambda: (x @ x)[:4],
        "raises": lambda: x @ torch.ones(3),
    }
    check = agrees_with(x.double() @ x.double(), max_error=1e-5)
    outcomes = measure(providers, device=CPU, min_sec=0, warm_up_sec=0, check=check)
    assert list(outcomes) == list(providers)
    assert isinstance(outcomes["right"], Timing)
    errors = [outcome.error for outcome in outcomes.values() if isinstance(outcome, Failure)]
    assert len(errors) == 4
    assert errors[0].startswith("wrong: relative error") and "expected at most 1e-05" in errors[0]
    assert "relative error nan" in errors[1]
    assert errors[2] == "ValueError: shapes are [[4, 8]], expected [[8, 8]]"
    assert errors[3].startswith("RuntimeError: size mismatch")


def test_a_provider_that_fails_late_loses_its_time_only() -> None:
    calls = iter(range(12))
    providers = {"late": lambda: next(calls), "steady": lambda: time.sleep(1e-3)}
    outcomes = measure(providers, device=CPU, min_sec=0, warm_up_sec=0, min_repeats=20, cold=False)
    assert outcomes["late"] == Failure("StopIteration: ")
    assert isinstance(outcomes["steady"], Timing) and outcomes["steady"].repeats == 20


def test_every_provider_is_warm_before_any_is_timed_and_all_run_in_turns() -> None:
    order: list[str] = []

    def provider(name: str) -> None:
        order.append(name)
        time.sleep(2e-3)

    names = ("a", "b", "c")
    measure(
        {name: lambda name=name: provider(name) for name in names},
        device=CPU,
        warm_up_sec=0.01,
        min_sec=0,
        min_repeats=6,
    )
    rounds = [order[-3 * i - 3 : len(order) - 3 * i] for i in range(6)]
    assert all(sorted(turn) == list(names) for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1
    assert set(order[:-18]) == set(names)


def test_inputs_rotate_and_cold_samples_are_single_calls() -> None:
    seen: list[int] = []
    outcome = measure(
        {"x": seen.append}, device=CPU, warm_up_sec=0, min_sec=0, min_repeats=3, rotate=[(0,), (1,), (2,)], cold=True
    )["x"]
    assert isinstance(outcome, Timing) and outcome.calls == 1
    assert seen == [i % 3 for i in range(len(seen))] and len(seen) == 6


def test_differences_inside_the_spread_are_noise() -> None:
    def timing(p20: float, median: float, p80: float) -> Timing:
        return Timing(median, p20, p80, repeats=10, calls=1, peak_bytes=0)

    assert not differs(timing(1.0, 1.1, 1.3), timing(1.2, 1.25, 1.4))
    assert differs(timing(1.0, 1.1, 1.2), timing(1.3, 1.4, 1.5))
    assert differs(timing(1.3, 1.4, 1.5), timing(1.0, 1.1, 1.2))


def test_peak_memory_counts_what_lives_at_once() -> None:
    def call() -> torch.Tensor:
        a = torch.empty(1 << 20)
        b = torch.empty(1 << 20)
        del a
        return torch.empty(1 << 19) if b.numel() else b

    assert peak_bytes(call, CPU) == 2 * 4 << 20
    assert peak_bytes(lambda: None, CPU) == 0


def test_relative_error_is_over_all_tensors_together() -> None:
    expected = (torch.tensor([3.0]), {"b": torch.tensor([0.0, 4.0])})
    result = (torch.tensor([3.0]), {"b": torch.tensor([0.5, 4.0])})
    assert relative_error(result, expected) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.ones(2), torch.zeros(2)) == float("inf")
