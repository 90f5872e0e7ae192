"""run.keep_best: the best of what was evaluated stays, by the metric's own direction, and nothing else changes."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.cli import main
from smartfast.core.best import best_of
from smartfast.core.checkpoint import load_newest
from smartfast.run import evaluations as evaluations_module

Options = Callable[..., list[str]]
EVALUATED = dict(metrics__every_ticks=1, metrics__samples=65, run__snapshot_ticks=4, run__keep_checkpoints=1)
NAMES = dict(metrics__names="[fid,prc,diversity]")


def values(patch: pytest.MonkeyPatch, name: str, *of_name: float) -> None:
    """Let the evaluations after 0, 16, 32, 48 and 64 images find these values."""
    found: Iterator[float] = iter(of_name)
    patch.setattr(evaluations_module, "evaluate", lambda *arguments, **options: {name: next(found), "seconds": 1.0})


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("asked", "name", "found", "kimg"),
    [
        ("fid", "fd_digits", [0.1, 9.0, 5.0, math.nan, 5.0], 0.032),
        ("fd_digits", "fd_digits", [0.1, 9.0, 5.0, 7.0, 4.0], 0.064),
        ("recall_digits", "recall_digits", [0.9, 0.1, 0.3, 0.2, math.inf], 0.064),
        ("precision_digits", "precision_digits", [0.9, 0.4, 0.3, 0.4, 0.2], 0.016),
        ("fid", "fd_digits", [0.1, math.nan, math.nan, math.nan, math.nan], None),
        ("diversity_digits", "diversity_digits", [1.0, 1.5, 1.1, 0.8, 0.5], 0.032),
    ],
)
def test_the_best_of_the_trained_ones_is_kept(
    asked: str,
    name: str,
    found: list[float],
    kimg: float | None,
    tmp_path: Path,
    tiny_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values(monkeypatch, name, *found)
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, **NAMES, run__keep_best=asked)]) == 0
    best = best_of(tmp_path)
    assert (best and best.kimg) == kimg
    if best:
        assert best.metric == name and best.value == found[round(best.kimg / 0.016)]
        assert json.loads((best.path / "checkpoint.json").read_text())["images"] == round(1000 * best.kimg)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000.064"]


def test_it_is_what_run_at_best_names_and_resuming_knows_nothing_of_it(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    assert main(["train", *tiny_options(plain)]) == 0
    with monkeypatch.context() as patch:
        values(patch, "fd_digits", 9.0, 2.0, 3.0)
        assert main(["train", *tiny_options(run, **EVALUATED, run__keep_best="fid", run__kimg=0.032)]) == 0
        assert main(["train", *tiny_options(run, **EVALUATED, run__keep_best="fid", run__kimg=0.032)]) == 0
    with monkeypatch.context() as patch:
        values(patch, "fd_digits", 4.0, 5.0)
        assert main(["train", *tiny_options(run, **EVALUATED, run__keep_best="fid")]) == 0
    assert best_of(run).kimg == 0.016, "a better one of before it was resumed stays"
    expected, found = load_newest(plain).state, load_newest(run).state
    assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert "best: fd_digits 2 at 0.016 kimg" in capsys.readouterr().out.splitlines()
    assert main(["generate", f"--checkpoint={run}@best", "--seeds=0-3", f"--out={tmp_path / 'best.png'}"]) == 0
    assert main(["generate", f"--checkpoint={run}", "--seeds=0-3", f"--out={tmp_path / 'newest.png'}"]) == 0
    assert (tmp_path / "best.png").read_bytes() != (tmp_path / "newest.png").read_bytes()
    assert main(["evaluate", f"--checkpoint={run}@best", "--metrics.samples=65"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kimg"] == 0.016
    begun = tiny_options(tmp_path / "begun", run__init_from=f"{run}@best", run__kimg=0.016)
    assert main(["train", *begun]) == 0
    assert f"{run}/best/000000.016" in (tmp_path / "begun" / "start.txt").read_text() + capsys.readouterr().out


def test_a_run_that_begins_anew_in_a_folder_does_not_hold_itself_against_the_best_of_the_old_one(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        values(patch, "fd_digits", 9.0, 1.0, 1.0, 1.0, 1.0)
        assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__keep_best="fid")]) == 0
    shutil.rmtree(tmp_path / "checkpoints")
    values(monkeypatch, "fd_digits", 9.0, 5.0, 5.0, 4.0, 5.0)
    assert main(["train", *tiny_options(tmp_path, **EVALUATED, run__keep_best="fid")]) == 0
    assert "what an earlier run in this folder kept is set aside as best.old" in capsys.readouterr().out
    assert best_of(tmp_path).value == 4.0 and (tmp_path / "best.old").is_dir()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(run__keep_best="kid"), "run.keep_best is kid, expected one of fid, fd_digits"),
        (dict(run__keep_best="fd_inception"), "expected one of fid, fd_digits"),
        (dict(run__keep_best="fid", metrics__every_ticks=0), "metrics.every_ticks is 0"),
    ],
)
def test_what_is_not_computed_is_said_before_training(
    changes: dict[str, Any], said: str, tmp_path: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    assert main(["train", *tiny_options(tmp_path, **EVALUATED | dict(metrics__names="[fid]") | changes)]) == 2
    assert said in capsys.readouterr().err
