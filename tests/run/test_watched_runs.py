"""Runs that are made to fail in each way of docs/signatures.md say so, once; a healthy one says nothing."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from smartfast.cli import main
from smartfast.core.run_log import read_rows
from smartfast.families.stylegan2.phases import StyleGan2Phases
from smartfast.networks.stylegan2.generator import Synthesis
from smartfast.run import scoring, status, trainer
from smartfast.scorers.diffusers import UNetScorer

Train = Callable[..., list[dict[str, Any]]]

SCORED: dict[str, object] = {
    "data__labels": "true",
    "data__resolution": 16,
    "smart__scorer": "digits",
    "smart__frequency": 2,
    "smart__self_check": "false",
    "smart__noise_to_signal": "[0.095,0.96]",
}


@pytest.fixture
def train(tmp_path: Path, tiny_options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> Train:
    """train(ticks, **settings): the warnings in the log of a tiny run, each of which is also printed and reported."""

    def run(ticks: int, **settings: object) -> list[dict[str, Any]]:
        told = sum(row["kind"] == "warning" for row in read_rows(tmp_path / "metrics.jsonl"))
        length = dict(run__kimg=0.032 * ticks, run__tick_kimg=0.032, run__snapshot_ticks=1000, run__max_bad_steps=1000)
        assert main(["train", *tiny_options(tmp_path, **length | settings)]) == 0
        printed, report = capsys.readouterr().out, (tmp_path / "report.html").read_text()
        logged = read_rows(tmp_path / "metrics.jsonl")
        warnings = [row for row in logged if row["kind"] == "warning"]
        assert all(warning["signature"] in report for warning in warnings)
        assert len([line for line in printed.splitlines() if line.startswith("warning at ")]) == len(warnings) - told
        assert [row["warnings"] for row in logged if row["kind"] == "tick"][-1] == len(warnings)
        lines = [line for line in printed.splitlines() if line.startswith("tick ")]
        assert (f" warnings {len(warnings)} " in lines[-1]) == bool(warnings)
        return warnings

    return run


def signatures(warnings: list[dict[str, Any]]) -> set[str]:
    names = [row["signature"] for row in warnings]
    assert len(names) == len(set(names)), "each once"
    return set(names)


def test_a_learning_rate_of_one(train: Train) -> None:
    assert "instability" in signatures(train(8, optim__lr_g=1, optim__lr_d=1))


def test_losses_that_are_not_finite(train: Train, not_finite: None) -> None:
    assert signatures(train(2)) == {"skipped steps"}


def answer(monkeypatch: pytest.MonkeyPatch, say: Callable[[Tensor], Tensor]) -> None:
    """A scorer whose predictions become `say` of them, after the check that would refuse it at the start."""
    network = UNetScorer.network
    monkeypatch.setattr(scoring, "check_predictions", lambda *_, **__: [])
    monkeypatch.setattr(UNetScorer, "network", lambda self, x, t, c: say(network(self, x, t, c)))


def test_a_lambda_near_zero(train: Train) -> None:
    assert signatures(train(4, smart__weight=1e-6, **SCORED)) == {"weak score term"}


def test_a_scorer_that_predicts_zero(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda prediction: prediction * 0)
    (warning,) = train(4, **SCORED)
    assert warning["signature"] == "weak score term" and warning["value"] == 0


def test_a_scorer_that_says_the_opposite(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda prediction: -prediction)
    assert "blind scorer" in signatures(train(9, **SCORED))


def test_a_generator_of_one_image_and_the_discriminator_that_knows_it(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed in the middle, the run says nothing again."""
    forward = Synthesis.forward
    monkeypatch.setattr(Synthesis, "forward", lambda *args, **options: forward(*args, **options) * 0)
    first = train(6, optim__lr_d=0.01)
    assert "collapse" in signatures(first)
    whole = train(8, optim__lr_d=0.01)
    assert whole[: len(first)] == first and {"collapse", "certain discriminator"} <= signatures(whole)


class Clock:
    """A made-up clock: a look at it takes a millisecond, and so does nothing else unless it is told."""

    def __init__(self) -> None:
        self.sec = 0.0

    def __call__(self) -> float:
        self.sec += 0.001
        return self.sec


@pytest.mark.parametrize(("scorer_sec", "expected"), [(10.0, {"dear score term"}), (0.0, set())])
def test_a_term_that_takes_far_longer_than_announced(
    scorer_sec: float, expected: set[str], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate is that of a hundredth of the fakes."""
    clock = Clock()
    monkeypatch.setattr(status, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=clock))
    g_score = StyleGan2Phases.g_score

    def timed(self: StyleGan2Phases, batch: Any) -> Any:
        clock.sec += scorer_sec
        return g_score(self, batch)

    monkeypatch.setattr(StyleGan2Phases, "g_score", timed)
    cheap = {"smart__batch_fraction": 0.01, "smart__through_network": "false"}
    assert signatures(train(5, **SCORED | cheap)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("frequency", [4, 0])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_of_the_digits_is_silent(seed: int, frequency: int, tmp_path: Path) -> None:
    """Half of the preset's length in eight ticks."""
    changes = {"run.seed": seed, "smart.frequency": frequency, "run.dir": tmp_path, "run.kimg": 16, "run.tick_kimg": 2}
    changes |= {"metrics.every_ticks": 0, "run.tracker": "none", "perf.cpu_threads": 1}
    assert main(["train", "--config=digits", *[f"--{name}={value}" for name, value in changes.items()]]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["kind"] for row in rows] == ["tick"] * 8
