"""Signatures of failure in rows of metrics.jsonl: each on both sides of its bound, once, and alike in a replay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartfast.core.run_log import RunLog, read_rows
from smartfast.run import watch
from smartfast.run.watch import SIGNATURES, Watch, replay, warning_line

HEALTHY: dict[str, Any] = {
    "loss/d_main": 0.5,
    "loss/g_main": 2.5,
    "loss/r1": 3.0,
    "loss/score": 0.39,
    "gradient/g_main": 5.0,
    "gradient/d_r1": 0.3,
    "skipped/g_main": 0,
    "image_gradient/score": 0.6,
    "image_gradient/loss": 0.65,
    "score/error_in_eps": 0.39,
    "spread/fakes": 0.22,
    "spread/reals": 0.26,
    "discriminator/accuracy": 0.9,
    "sec_per_tick": 30.0,
    "ms/g_main": 100.0,
    "count/g_main": 94,
    "ms/g_score": 200.0,
    "count/g_score": 31,
    "score/announced_share": 0.11,
}
"""Figures of the digits preset."""

Change = Callable[[int], dict[str, Any]]


def rows(change: Change, ticks: int = 20) -> list[dict[str, Any]]:
    return [{"kind": "tick", "kimg": 4.0 * n, "tick": n} | HEALTHY | change(n) for n in range(1, ticks + 1)]


def from_tick(first: int, **values: Any) -> Change:
    """Healthy before that tick; `loss__r1=1` is the key loss/r1."""
    return lambda n: {name.replace("__", "/"): value for name, value in values.items()} if n >= first else {}


def growing(name: str, factor: float) -> Change:
    return lambda n: {name: HEALTHY[name] * factor**n}


FAILING: dict[str, tuple[str, Change, int]] = {
    "a tick with three bad steps": ("skipped steps", from_tick(7, skipped__g_main=3), 7),
    "2 % bad steps": ("skipped steps", lambda n: {"count/g_main": 1000, "skipped/g_main": 20 * n}, 1),
    "logits without bound": ("instability", from_tick(1, loss__g_main=-101.0), 2),
    "a loss leaves its range": ("instability", from_tick(9, loss__r1=31.0), 10),
    "a gradient leaves its range": ("instability", from_tick(9, gradient__g_main=51.0), 10),
    "a gradient that grows fast": ("instability", growing("gradient/g_main", 4.0), 9),
    "a term that is too small": ("weak score term", from_tick(5, image_gradient__score=6e-5), 7),
    "a scorer without a gradient": ("weak score term", from_tick(1, image_gradient__score=0.0), 3),
    "a scorer of other images": ("blind scorer", from_tick(1, score__error_in_eps=1.2), 8),
    "a scorer that goes blind": ("blind scorer", from_tick(12, score__error_in_eps=1.02), 14),
    "always one image": ("collapse", from_tick(1, spread__fakes=1e-5), 6),
    "fakes become alike": ("collapse", from_tick(10, spread__fakes=0.05), 12),
    "a certain discriminator": ("certain discriminator", from_tick(6, discriminator__accuracy=0.996), 10),
    "a slow term": ("dear score term", from_tick(6, ms__g_score=400.0), 7),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_signature_is_said_once_when_it_shows(name: str) -> None:
    signature, change, tick = FAILING[name]
    (warning,) = replay(rows(change))
    assert (warning["kind"], warning["signature"], warning["kimg"]) == ("warning", signature, 4.0 * tick)
    line = warning_line(warning)
    assert "try" in line and signature in line and "\n" not in line
    is_low = signature in ("weak score term", "collapse")
    assert warning["value"] < warning["bound"] if is_low else warning["value"] >= warning["bound"]


SILENT: dict[str, Change] = {
    "healthy": lambda n: {},
    "two bad steps at a time": lambda n: {"skipped/g_main": 2 * n},
    "1 % bad steps": lambda n: {"count/g_main": 1000, "skipped/g_main": 10 * n},
    "one tick out of range": lambda n: {"loss/r1": 1000.0} if n == 9 else {},
    "a penalty that rises steadily": growing("loss/r1", 1.5),
    "a loss that falls": growing("loss/d_main", 0.5),
    "a loss that begins high": lambda n: {"loss/r1": 3000.0} if n < 3 else {},
    "a term that is weak now and then": lambda n: {"image_gradient/score": 1e-5} if n % 3 else {},
    "fakes unlike all images at first": lambda n: {"score/error_in_eps": 3.0} if n < 8 else {},
    "first fakes are noise": lambda n: {"spread/fakes": 0.7} if n < 4 else {},
    "first fakes are grey": lambda n: {"spread/fakes": 1e-3} if n < 6 else {},
    "half as diverse": from_tick(10, spread__fakes=0.11),
    "a strong discriminator": from_tick(1, discriminator__accuracy=0.99),
    "a strong discriminator at first": lambda n: {"discriminator/accuracy": 1.0} if n < 5 else {},
    "a slow first tick": lambda n: {"ms/g_score": 3000.0} if n == 1 else {},
    "twice as dear as announced": from_tick(1, ms__g_score=310.0),
    "means of nothing finite": lambda n: dict.fromkeys(HEALTHY) | {"sec_per_tick": 30.0},
    "no numbers": lambda n: dict.fromkeys(HEALTHY, "x"),
    "a diffusion model": lambda n: {"loss/denoise": 1.0 / n, "gradient/denoise": 2.0 / n},
}


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    assert replay(rows(SILENT[name])) == []


def test_a_row_that_has_none_of_the_figures_is_healthy() -> None:
    assert replay([{"kind": "tick", "kimg": 4.0 * n} for n in range(1, 20)]) == []


def test_every_signature_has_a_failing_case() -> None:
    assert {signature for signature, _, _ in FAILING.values()} == set(SIGNATURES)


def everything(n: int) -> dict[str, Any]:
    changes = [change(n) for _, change, _ in FAILING.values()]
    return {name: value for change in changes for name, value in change.items()}


@pytest.mark.parametrize("cut", [1, 6, 7, 11, 19])
def test_a_resumed_run_says_what_an_uninterrupted_one_does(cut: int, tmp_path: Path) -> None:
    """The log goes back to the checkpoint, and the watch is made of what is left of it."""
    ticks = rows(everything)
    log, first = RunLog(tmp_path, kimg=-1.0), Watch()
    for row in ticks[:cut] + ticks[cut : cut + 2]:
        for each in (row, *first.look(row)):
            log.write(each)
    log = RunLog(tmp_path, kimg=4.0 * cut)
    second = Watch(read_rows(log.path))
    for row in ticks[cut:]:
        for each in (row, *second.look(row)):
            log.write(each)
    logged = [row for row in read_rows(log.path) if row["kind"] == "warning"]
    assert logged == json.loads(json.dumps(replay(ticks))) and len(logged) == len(SIGNATURES)


def test_old_ticks_are_forgotten() -> None:
    looking = Watch(rows(lambda n: {}, 200))
    for row in rows(lambda n: {}, 3):
        assert looking.look(row) == []
    assert len(looking.ticks) == watch._KEPT
