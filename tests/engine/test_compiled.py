"""Compiled phases: the eager ones' numbers, one graph each, no recompilation. Tiny networks, an analytic scorer."""

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from smartfast.data import RealBatch
from smartfast.engine.compiling import Compiler
from smartfast.run.training import Training

Pair = tuple[Training, Training]
SLOW = "SMARTFAST_TEST_SLOW" in os.environ
PHASES = ("g_score", "g_path", "d_main", "d_r1", *(["g_main"] if SLOW else []))
"""g_score is g_main with a further term; compiling both takes a minute more."""


@pytest.fixture(scope="module")
def pair(tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]) -> Iterator[Pair]:
    """The same run, eager and compiled, after three iterations of each; two of them run every phase."""
    frequency = 2 if SLOW else 1
    eager, compiled = (tiny_training(perf__compile=c, smart__frequency=frequency) for c in ("false", "true"))
    counters.clear()
    for run in (eager, compiled):
        for _ in range(3):
            run.run_iteration(tiny_reals())
    yield eager, compiled
    torch._dynamo.reset()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_compiled_phase_has_the_eager_loss_and_gradients(pair: Pair, phase: str) -> None:
    """R1 and path length have second derivatives, traced with the private switch `trace_autograd_ops`."""
    eager, compiled = pair
    compiled.restore(eager.state(), images=eager.images)
    results = [run.phases[phase].compute(run.rounds[0]) for run in pair]
    (loss, statistics, gradients), (compiled_loss, compiled_statistics, compiled_gradients) = results
    assert loss != 0 and relative(compiled_loss, loss) < 1e-5
    assert statistics.keys() == compiled_statistics.keys()
    flat, compiled_flat = (torch.cat([g.flatten() for g in each]) for each in (gradients, compiled_gradients))
    assert flat.norm() > 0 and relative(compiled_flat, flat) < 1e-5
    for a, b in zip(compiled_gradients, gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-7 * flat.norm()


@pytest.mark.slow
def test_every_phase_is_one_graph_and_stays_as_it_was_compiled(
    pair: Pair, tiny_reals: Callable[..., RealBatch]
) -> None:
    _, compiled = pair
    assert counters["stats"]["unique_graphs"] == len(PHASES) and not counters["graph_break"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(17):
            compiled.run_iteration(tiny_reals())
    assert counters["stats"]["unique_graphs"] == len(PHASES) and not counters["graph_break"]


@pytest.mark.slow
def test_a_compiled_run_restored_in_the_middle_ends_bit_equal(pair: Pair, tiny_reals: Callable[..., RealBatch]) -> None:
    _, compiled = pair
    middle, images = {name: value.clone() for name, value in compiled.state().items()}, compiled.images
    ends = []
    for _ in range(2):
        compiled.restore(middle, images=images)
        for _ in range(8):
            compiled.run_iteration(tiny_reals())
        ends.append({name: value.clone() for name, value in compiled.state().items()})
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    assert not torch.equal(ends[0]["g/exp_avg_sq/mapping.fc0.weight"], middle["g/exp_avg_sq/mapping.fc0.weight"])


def test_what_cannot_be_compiled_runs_eagerly_and_says_why() -> None:
    said: list[str] = []
    compiler = Compiler(True, said.append)

    def breaks_the_graph(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x + 1

    call = compiler("d_main", breaks_the_graph)
    with pytest.warns(UserWarning, match="perf.compile: d_main runs eagerly, it cannot be compiled") as caught:
        for _ in range(2):
            assert call(torch.ones(2)).tolist() == [2, 2]
    assert len(caught) == 1 and said == ["compiling d_main ..."]
    assert compiler.total_sec > 0


def test_another_size_in_the_same_process_is_compiled_for_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second size on, the compiler would otherwise make code for any size."""
    inputs: list[list[object]] = []

    def keep_inputs(graph: torch.fx.GraphModule, examples: list[object]) -> Callable[..., object]:
        inputs.append(examples)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep_inputs))
    torch._dynamo.reset()
    for size in (4, 6):

        def double(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        assert Compiler(True, lambda line: None)("d_main", double)(torch.ones(size)).sum() == 2 * size
    assert [[type(n) for x in each for n in x.shape] for each in inputs] == [[int], [int]]
