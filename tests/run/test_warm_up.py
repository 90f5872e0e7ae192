"""Phases are made ready before the first tick, from a state that is put back, and held to the eager ones."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch._dynamo.utils import counters

from smartfast.config.parse import parse_config
from smartfast.data import RealBatch, open_dataset
from smartfast.engine.phase import ComputedPhase, Phase, with_gradients
from smartfast.run import warm_up as module
from smartfast.run.training import Training
from smartfast.run.warm_up import compare, warm_up

Make = Callable[..., Training]


def uncompiled(training: Training) -> Training:
    """A run that believes to be compiled, in which every phase is what it would be without."""
    for phase in training.phases.values():
        phase.compute = with_gradients(phase.spec, phase.network.parameters.parameters)
    return training


def wrong(phase: Phase, factor: float) -> Callable[[object], ComputedPhase]:
    right = with_gradients(phase.spec, phase.network.parameters.parameters)

    def compute(batch: object) -> ComputedPhase:
        loss, statistics, gradients = right(batch)
        return loss, statistics, tuple(g * factor for g in gradients)

    return compute


@pytest.fixture
def main_process() -> Accelerator:
    return Accelerator(cpu=True)


def test_a_run_with_a_warm_up_is_bit_equal_to_one_without(
    tiny_training: Make, tiny_reals: Callable[..., RealBatch], main_process: Accelerator
) -> None:
    """Also when it goes on in the middle, with moments and averages that are not zero."""
    plain, warm = (uncompiled(tiny_training(perf__compile="true")) for _ in range(2))
    for _ in range(2):
        warm_up(warm, main_process)
        for run in (plain, warm):
            for _ in range(3):
                run.run_iteration(tiny_reals())
        assert [name for name, value in plain.state().items() if not torch.equal(value, warm.state()[name])] == []
        assert plain.statistics.read() == warm.statistics.read()
        assert warm.compile_sec == 0.0


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_phase_whose_gradient_is_wrong_runs_eagerly(factor: float, tiny_training: Make) -> None:
    training = uncompiled(tiny_training(smart__precision="fp32"))
    phase = training.phases["d_r1"]
    assert compare(training, phase) is None
    phase.compute = wrong(phase, factor)
    text = compare(training, phase)
    assert text is not None and text.startswith("d_r1 runs eagerly, for its gradient was off by ")
    assert text.endswith("otherwise, expected at most 0.001")
    assert compare(training, phase) is None


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_features_dropped_at_random_are_no_fault(dropout: float) -> None:
    unet = ["block_out_channels=[8,16]", "layers_per_block=1", "attention=[]", "attention_head_dim=4", "norm_groups=2"]
    options = ["--gan.family=denoiser", "--data.path=digits", "--smart.frequency=0", "--optim.batch=8"]
    config = parse_config([*options, *(f"--gan.{option}" for option in unet), f"--gan.dropout={dropout}"])
    training = Training(config, open_dataset(config.data), device=torch.device("cpu"), say=lambda line: None)
    phase = training.phases["denoise"]
    assert compare(training, phase) is None
    if not dropout:
        phase.compute = wrong(phase, -1.0)  # a longer gradient would be clipped
        assert "runs eagerly" in str(compare(training, phase))


def test_a_graph_that_is_known_to_be_wrong_is_given_up_and_the_compiled_phase_kept(tiny_training: Make) -> None:
    """At every later start as at the first."""
    training = uncompiled(tiny_training())
    phase, gone = training.phases["d_main"], []
    training.captured["d_main"] = [SimpleNamespace(replay=None, abandon=lambda: gone.append("graph"))]
    kept = phase.compute
    for text, is_kept in (("d_main runs without a CUDA graph, for", True), ("d_main runs eagerly, for", False)):
        assert module._prepared(training, phase, {module.key_of(training, phase): text}, True) == text
        assert (phase.compute is kept) == is_kept
    assert gone == ["graph", "graph"]


def test_a_graph_that_is_wrong_is_given_up_and_the_compiled_phase_kept(tiny_training: Make) -> None:
    training = uncompiled(tiny_training())
    phase, (right,) = training.phases["d_main"], training.turn_steps["d_main"]
    graph = SimpleNamespace(replay=right)

    def abandon() -> None:
        graph.replay = None

    def step() -> None:
        right()
        if graph.replay is not None:
            phase.network.buffer[0] += 100

    graph.abandon = abandon
    training.turn_steps["d_main"], training.captured["d_main"] = [step], [graph]
    kept = phase.compute
    text = compare(training, phase)
    assert text is not None and text.startswith("d_main runs without a CUDA graph, for its gradient was off by")
    assert phase.compute is kept and compare(training, phase) is None


def test_a_verdict_is_kept_for_its_configuration(
    tiny_training: Make,
    main_process: Accelerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "COMPARED_DEVICES", ("cpu",))

    def start(**changes: object) -> tuple[Training, str]:
        training = uncompiled(tiny_training(perf__compile="true", **changes))
        training.phases["d_r1"].compute = wrong(training.phases["d_r1"], 2.0)
        warm_up(training, main_process, tmp_path)
        return training, capsys.readouterr().out

    first, said = start()
    assert "performance: d_r1 runs eagerly" in said and said.count("\n") == 1
    monkeypatch.setattr(module, "compare", lambda *_: pytest.fail("compared again"))
    second, again = start(run__kimg=3)
    assert again == said and module.compare is not compare
    expected = with_gradients(second.phases["d_r1"].spec, second.phases["d_r1"].network.parameters.parameters)(
        second.rounds[0]
    )[2]
    assert all(map(torch.equal, second.phases["d_r1"].compute(second.rounds[0])[2], expected))
    assert start(perf__verify="off")[1] == ""
    monkeypatch.setattr(module, "compare", lambda *_: None)
    assert start(optim__batch=4)[1] == ""


@pytest.mark.slow
def test_nothing_is_compiled_behind_the_warm_up(
    tiny_training: Make, tiny_reals: Callable[..., RealBatch], main_process: Accelerator
) -> None:
    training = tiny_training(perf__compile="true")
    warm_up(training, main_process)
    before = dict(counters["stats"])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(9):
            training.run_iteration(tiny_reals())
    assert dict(counters["stats"]) == before and before["unique_graphs"] >= 5
    assert training.compile_sec == 0.0
    torch._dynamo.reset()
