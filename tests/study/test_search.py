"""A search: draws that the YAML decides, trials that are cells, the best setting of each arm on fresh seeds."""

import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.errors import UserError
from smartfast.study.claims import Claims
from smartfast.study.commands import check_outcome
from smartfast.study.plan import Plan, check_trainings, load_plan
from smartfast.study.runner import Worker
from smartfast.study.search import corners, draw
from smartfast.study.trials import follow, run_stages

STAND_IN = (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py")))
SPACE = {"smart.weight": {"low": 1, "high": 100, "log": True}, "smart.frequency": [1, 2, 4]}
SEARCH = {"space": SPACE, "trials": 4, "together": 2, "seeds": [100, 101], "metric": "fd_digits"}
STUDY = {
    "base": "digits",
    "arms": {"mirrored": {"data.mirror": True}, "straight": {"data.mirror": False}},
    "seeds": [0, 1],
    "budget": {"kimg": 0.002},
    "metrics": ["fd_digits", "recall"],
    "search": SEARCH | {"budget": {"kimg": 0.001}},
}
QUICK = {"seeds": [5], "budget": {"kimg": 0.001}, "search": {"trials": 1, "seeds": [7]}}


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    def make(*, is_quick: bool = False, search: dict | None = None, **changes: object) -> Plan:
        settings = STUDY | changes | {"search": STUDY["search"] | (search or {})}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return load_plan(tmp_path / "mine.yaml", quick=is_quick)

    return make


def work(plan: Plan, out: Path, said: list[str] | None = None) -> None:
    claims, say = Claims(out, None, plan.name, beat_sec=2), (said if said is not None else []).append
    run_stages(plan, out, lambda stage: Worker(stage, out, claims, jobs=2, train=STAND_IN, say=say).run(), say)


def values(out: Path) -> dict[str, float]:
    """fd_digits at the end of every cell that has one, by its folder."""
    last = {log.parent.name: json.loads(log.read_text().splitlines()[-1]) for log in out.glob("cells/*/metrics.jsonl")}
    return {name: row["metric/fd_digits"] for name, row in last.items()}


def completed(out: Path) -> list[str]:
    return sorted((out / "cells" / "completed.txt").read_text().split())


def test_every_arm_has_as_many_trials_and_its_best_setting_goes_on_with_fresh_seeds(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan, said = make_plan(), []
    work(plan, tmp_path, said)
    found, value = follow(plan, tmp_path), values(tmp_path)
    assert found.is_final and said[0] == "search: trial 1 to 2 of 4 for every arm"
    for arm in found.plan.arms:
        own = [trial for trial in found.trials if trial.arm == arm.name]
        assert [trial.number for trial in own] == [1, 2, 3, 4]
        means = [(value[f"{trial.name}-100"] + value[f"{trial.name}-101"]) / 2 for trial in own]
        assert [trial.value for trial in own] == means
        best = own[int(np.argmin(means))]
        assert found.chosen[arm.name] is best and arm.settings.items() >= dict(best.point).items()
        options = json.loads((tmp_path / f"cells/{arm.name}-1/cell.json").read_text())["options"]
        assert f"--smart.weight={best.point['smart.weight']}" in options and "--run.kimg=0.002" in options
        assert any(line.startswith(f"{arm.name}: trial {best.number} of 4 is the best") for line in said)
    first = {tuple(trial.point.values()) for trial in found.trials if trial.number <= 2}
    assert len(first) == 2  # the arms' first draws are the same
    assert len(completed(tmp_path)) == len(set(completed(tmp_path))) == len(value)

    before = completed(tmp_path)
    (tmp_path / "study.db").unlink()  # what is drawn and chosen follows from the folders
    work(plan, tmp_path)
    assert completed(tmp_path) == before


def test_a_search_is_the_same_whoever_runs_it_and_whenever_it_was_stopped(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(search={"seeds": [100], "trials": 3})
    work(plan, tmp_path / "serial")
    shared, context = tmp_path / "shared", multiprocessing.get_context("fork")
    stage = follow(plan, shared).stages[0]
    Worker(stage, shared, Claims(shared, None, plan.name), train=STAND_IN, say=print).run()  # and is stopped here
    workers = [context.Process(target=work, args=(plan, shared)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert values(shared) == values(tmp_path / "serial")
    assert completed(shared) == completed(tmp_path / "serial")


def test_failed_trials_are_rows(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    space = {"smart.weight": [5, 13, 40], "smart.frequency": [1, 2, 4]}
    plan = make_plan(search={"space": space, "trials": 6, "together": 6, "sampler": "random"})
    work(plan, tmp_path)
    found = follow(plan, tmp_path)
    states = {(trial.point["smart.weight"], trial.state, trial.error) for trial in found.trials}
    assert states >= {(13, "failed", "smartfast: error: 13 brings bad luck")}
    assert all((weight == 13) == (state == "failed") for weight, state, _ in states)
    where = [str(tmp_path / "mine.yaml"), "--out", str(tmp_path)]
    assert main(["study", "report", *where]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "6 trials of every arm, drawn by random (seed 0), 6 at once" in text and "13 brings bad luck" in text
    assert "The arms then have the seeds 0, 1, which are fresh" in text and text.count("| yes |") == 2
    assert "4 of 4 cells complete" in text and "smart.weight " in text.split("## Arms")[1]


def test_an_arm_of_which_every_trial_failed_is_said(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    space = {"smart.weight": [13, 40], "smart.frequency": [1, 2, 4]}
    failing = {"arms": {"mirrored": {"data.mirror": True}}, "seeds": [0], "search": {"space": space, "seeds": [13]}}
    plan, out = make_plan(**failing), tmp_path
    work(plan, out)
    found = follow(plan, out)
    assert found.is_final and not found.chosen and [arm.name for arm in found.plan.arms] == ["mirrored"]
    with pytest.raises(UserError, match="arm mirrored: every trial failed, first mirrored,weight=.*: smartfast: error"):
        check_outcome(found, out)


def test_draws_follow_from_the_seed_and_the_earlier_trials(make_plan: Callable[..., Plan]) -> None:
    search = make_plan(search={"trials": 12}).search
    history = [(point, float(k)) for k, point in enumerate(draw(search, [], 6))]
    assert draw(search, history, 3) == draw(search, history, 3)
    assert draw(search, history, 3) != draw(search, [(point, -bad) for point, bad in history], 3)
    assert draw(search, [], 6) != draw(dataclasses.replace(search, seed=1), [], 6)
    weights = [point["smart.weight"] for point in draw(search, [], 200)]
    assert 1 <= min(weights) < 1.3 and 80 < max(weights) <= 100 and 6 < np.median(weights) < 16  # evenly by logarithm
    assert {point["smart.frequency"] for point in draw(search, [], 200)} == {1, 2, 4}


def test_tpe_comes_nearer_to_a_known_minimum_than_random_draws(make_plan: Callable[..., Plan]) -> None:
    """A parabola over the logarithm, whose minimum is at 10: the mean of the last twenty of 40 trials."""

    def badness(point: dict) -> float:
        return np.log10(point["smart.weight"] / 10) ** 2

    last = {}
    for sampler in ("tpe", "random"):
        search, history = make_plan(search={"trials": 40, "sampler": sampler}).search, []
        for _ in range(40):
            history += [(point, badness(point)) for point in draw(search, history, 1)]
        last[sampler] = np.mean([value for _, value in history[20:]])
    assert last["tpe"] < last["random"] / 2


def test_whole_numbers_and_lists_are_drawn_as_such(make_plan: Callable[..., Plan]) -> None:
    space = {
        "smart.frequency": {"low": 2, "high": 8, "whole": True},
        "smart.noise_to_signal": [[0.1, 0.2], [0.3, 0.4]],
        "smart.weight": {"low": 0.123456, "high": 0.123457},
    }
    plan = make_plan(search={"space": space})
    points = draw(plan.search, [], 60)
    assert {point["smart.frequency"] for point in points} == set(range(2, 9))
    assert {tuple(point["smart.noise_to_signal"]) for point in points} == {(0.1, 0.2), (0.3, 0.4)}
    assert all(0.123456 <= point["smart.weight"] <= 0.123457 for point in points)  # though it has four digits elsewhere
    assert draw(plan.search, [(point, 1.0) for point in points], 1)
    stage = follow(plan, Path("nowhere")).stages[0]
    config = parse_config(stage.options(stage.cells[0], Path("out")))
    assert type(config.smart.frequency) is int and config.run.seed == 100
    assert len(corners(plan.search)) == 4


def test_the_quick_form_has_trials_of_its_own(make_plan: Callable[..., Plan]) -> None:
    search = make_plan(is_quick=True, quick=QUICK).search
    assert (search.trials, search.together, search.seeds, search.budget.kimg) == (1, 2, (7,), 0.001)
    assert make_plan(is_quick=True, quick={"seeds": [5], "budget": {"kimg": 9}}).search.budget.kimg == 9
    assert make_plan(is_quick=True, quick={"seeds": [5]}).search.budget.kimg == 0.001


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"seeds": [1, 100]}, "search.seeds has 1, which seeds has too, expected seeds that no trial has seen"),
        ({"space": {}}, "search.space is empty"),
        ({"space": {"weight": [1, 2]}}, "search.space: 'weight' is no setting"),
        ({"space": {"run.seed": [1, 2]}}, "search.space.run.seed is given by seeds"),
        ({"space": {"smart.weight": [1]}}, r"search.space.smart.weight is \[1\], expected a list of values, or {low"),
        ({"space": {"smart.weight": {"low": 2}}}, "search.space.smart.weight is {'low': 2}, expected"),
        ({"space": {"smart.weight": {"low": 2, "high": 1}}}, "expected .* low below high"),
        ({"space": {"smart.weight": {"low": 0, "high": 1, "log": True}}}, "expected low above 0 for log"),
        ({"space": {"smart.weight": {"low": 0.5, "high": 2, "whole": True}}}, "whole numbers for whole: true"),
        ({"space": {"data.path": ["a/b", "c"]}}, "search.space.data.path: 'path=a/b' cannot name a folder"),
        ({"space": {"smart.weight": ["x" * 90, "y"], "smart.mode": ["z" * 90, "y"]}}, "trials have names of "),
        ({"space": {"data.mirror": [True, False]}}, "search.space.data.mirror is set by arms.mirrored too"),
        ({"trials": 0}, "search.trials is 0, expected a whole number from 1 to 1000"),
        ({"together": True}, "search.together is True"),
        ({"sampler": "grid"}, "search.sampler is grid, expected one of tpe, random"),
        ({"metric": "fid"}, "search.metric is fid, expected one of the study's: fd_digits, recall"),
        ({"seed": -1}, r"search.seed is \[-1\]"),
        ({"pruner": "x"}, "search.pruner: there is no such key, expected space, "),
        ({"budget": {"hours": 1}}, "search.budget.hours: there is no such key"),
    ],
)
def test_what_is_wrong_with_a_search_is_one_line(make_plan: Callable[..., Plan], search: dict, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make_plan(search=search)
    assert "\n" not in str(error.value)


def test_a_search_lacks_no_key_and_its_quick_form_overlaps_no_seeds(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"mine.yaml: quick.search.seeds has 100, which seeds has too"):
        make_plan(quick={"seeds": [100]})
    settings = STUDY | {"search": {key: value for key, value in SEARCH.items() if key != "space"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="search.space is missing, expected in every search"):
        load_plan(tmp_path / "mine.yaml")


@pytest.mark.parametrize("wrong", [[1, -2], {"low": -2, "high": 1}])
def test_every_end_of_the_space_is_checked_as_train_does(make_plan: Callable[..., Plan], wrong: object) -> None:
    plan = make_plan(search={"space": {"smart.frequency": [1, 2], "optim.batch": wrong}})
    with pytest.raises(UserError, match="arms.mirrored with frequency=1,batch=-2 of search.space: optim.batch is -2"):
        check_trainings(plan)
