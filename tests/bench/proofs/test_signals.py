"""Signals to whole trainings: what is drawn, what counts as wrong, and one case in earnest."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from bench.proofs import marked_training, signals
from bench.proofs.signals import WAYS, Moment, Outcome, cases, report

RIGHT = Outcome("python", 1, False, "SIGTERM", "group", "training", 24, 3, 0, 2.5, 32, 0, True)
MOMENTS = [Moment(phase, 8, 0.1 * place) for place, phase in enumerate(marked_training.PHASES)]


def test_every_phase_signal_and_launcher_has_its_share() -> None:
    moments = {(way, is_compiled): MOMENTS for way in WAYS for is_compiled in (False, True)}
    drawn = list(cases(600, 5, moments))
    assert drawn == list(cases(600, 5, moments)) != list(cases(600, 6, moments))
    for place, expected in ((0, set(WAYS)), (1, set(signals.SIGNALS)), (2, {"launcher", "group"})):
        counts = Counter(case[place] for case in drawn)
        assert counts.keys() == expected and min(counts.values()) > 600 / len(expected) / 2
    phases = Counter(case[3].phase for case in drawn)
    assert phases.keys() == set(marked_training.PHASES) - {"python"}
    assert phases["compile"] > 100 and min(phases.values()) > 40


@pytest.mark.parametrize(
    ("changes", "is_right"),
    [
        ({}, True),
        (dict(saved_sec=10.1), False),
        (dict(saved_sec=None), False),
        (dict(saved_images=16), False),
        (dict(status=0), False),
        (dict(status=0, phase="report"), True),
        (dict(status=-15), False),
        (dict(status=1, launcher="torchrun"), True),
        (dict(left=1), False),
        (dict(is_equal=False), False),
        (dict(resumed_status=2), False),
    ],
    ids=str,
)
def test_what_is_wrong(changes: dict, is_right: bool) -> None:
    outcome = dataclasses.replace(RIGHT, **changes)
    assert outcome.is_right == is_right
    line = next(line for line in report([RIGHT, outcome], 3).splitlines() if line.startswith("| all |"))
    assert line.split("|")[2].strip() == "2" and line.split("|")[-2].strip() == str(int(not is_right))


@pytest.mark.slow
def test_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "WAYS", WAYS[:1])
    monkeypatch.setattr(signals, "COMPILE_SHARE", 0.0)
    monkeypatch.setattr(signals.itertools, "product", lambda ways, _: [(ways[0], False)])
    assert signals.main(["--output", str(tmp_path), "--number", "1", "--seed", "1"]) == 0
    (row,) = json.loads((tmp_path / "signals.json").read_text())["rows"]
    assert row["status"] in (0, 3) and row["is_equal"]
