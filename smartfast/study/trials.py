"""How far a study with a search is, from its run folders: trials, the setting chosen for each arm, and what comes next.

A trial is an arm with the settings that were drawn, named after them, and the search's seeds: its cells are run folders
as any. Arms advance together, stage by stage, and the last stage is the study itself with the chosen settings.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smartfast.metrics.names import metric_of
from smartfast.study.plan import Arm, Plan
from smartfast.study.results import Result, read_results, values_by_seed
from smartfast.study.search import Search, draw
from smartfast.study.values import point_name


@dataclass(frozen=True)
class Trial:
    """An arm with settings that were drawn.

    Attributes:
        number: From 1, within its arm.
        name: Of the arm of its cells.
        value: Mean of the search's metric over the seeds, None where it is not complete.
        error: The first of a failed one.
    """

    arm: str
    number: int
    point: Mapping[str, Any]
    name: str
    state: Literal["complete", "failed", "open"]
    value: float | None
    error: str


@dataclass(frozen=True)
class Searched:
    """A study as far as its search is.

    Attributes:
        plan: The study, its arms with the settings that are chosen by now.
        trials: That were drawn by now, arm by arm.
        chosen: The best trial of each arm, once all of them are over; without arms of which every trial failed.
        stages: What has to run in turn: trials, in the end the study itself. All before the last one are over.
        is_final: Whether the last stage is the study itself.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    chosen: Mapping[str, Trial]
    stages: tuple[Plan, ...]
    is_final: bool


def follow(plan: Plan, out: Path) -> Searched:
    """What is known of a study, and of one without a search that it is in its only stage."""
    search = plan.search
    if search is None:
        return Searched(plan, (), {}, (plan,), True)
    trials: dict[str, list[Trial]] = {arm.name: [] for arm in plan.arms}
    stages = []
    for begun in range(0, search.trials, search.together):
        count = min(search.together, search.trials - begun)
        drawn = {name: draw(search, _history(search, known), count) for name, known in trials.items()}
        stages.append(_stage(plan, search, drawn))
        results = read_results(stages[-1], out)
        for name, points in drawn.items():
            for number, point in enumerate(points, start=begun + 1):
                trials[name].append(_trial(search, name, number, point, results))
        known = tuple(trial for own in trials.values() for trial in own)
        if any(trial.state == "open" for trial in known):
            return Searched(plan, known, {}, tuple(stages), False)
    chosen = {name: best for name, own in trials.items() if (best := _best(search, own)) is not None}
    arms = {arm.name: _with(arm, arm.name, chosen[arm.name].point) for arm in plan.arms if arm.name in chosen}
    final = dataclasses.replace(plan, arms=tuple(arms.values()))
    whole = dataclasses.replace(plan, arms=tuple(arms.get(arm.name, arm) for arm in plan.arms))
    return Searched(whole, known, chosen, (*stages, final), True)


def run_stages(plan: Plan, out: Path, run: Callable[[Plan], bool], say: Callable[[str], None]) -> Searched | None:
    """Run the stages of a study.

    Args:
        run: Runs the cells of a stage, in the end the study itself; False where a signal ended it.
        say: Takes a line about a stage.

    Returns:
        How the study stood when its last stage began, None after a signal.
    """
    while True:
        found = follow(plan, out)
        for line in stage_lines(found):
            say(line)
        if not run(found.stages[-1]):
            return None
        if found.is_final:
            return found


def stage_lines(found: Searched) -> list[str]:
    """What the last stage is, for people; nothing of a study without a search."""
    search = found.plan.search
    if search is None:
        return []
    if not found.is_final:
        numbers = [trial.number for trial in found.trials if trial.state == "open"]
        which = f"{min(numbers)} to {max(numbers)}" if len(set(numbers)) > 1 else f"{numbers[0]}"
        return [f"search: trial {which} of {search.trials} for every arm"]
    return [
        f"{arm}: trial {trial.number} of {search.trials} is the best, {trial.name}, {search.metric} {trial.value:.4g}"
        for arm, trial in found.chosen.items()
    ]


def _history(search: Search, trials: Sequence[Trial]) -> list[tuple[Mapping[str, Any], float | None]]:
    metric = metric_of(search.metric)
    return [(trial.point, None if trial.value is None else metric.badness(trial.value)) for trial in trials]


def _best(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """The first of the best."""
    metric = metric_of(search.metric)
    complete = [(metric.badness(trial.value), trial.number, trial) for trial in trials if trial.value is not None]
    return min(complete)[2] if complete else None


def _stage(plan: Plan, search: Search, drawn: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plan:
    arms = {}
    for arm in plan.arms:
        for point in drawn[arm.name]:
            name = _name(arm.name, point)
            arms[name] = _with(arm, name, point)  # what is drawn twice is trained once
    return dataclasses.replace(plan, arms=tuple(arms.values()), seeds=search.seeds, budget=search.budget)


def _name(arm: str, point: Mapping[str, Any]) -> str:
    return f"{arm},{point_name(point)}"


def _with(arm: Arm, name: str, point: Mapping[str, Any]) -> Arm:
    return dataclasses.replace(arm, name=name, settings={**arm.settings, **point})


def _trial(search: Search, arm: str, number: int, point: Mapping[str, Any], results: list[Result]) -> Trial:
    name = _name(arm, point)
    own = [result for result in results if result.cell.arm == name]
    values = values_by_seed(results, name, search.metric)
    errors = [result.record.error for result in own if result.state == "failed" and result.record is not None]
    if any(result.state not in ("complete", "failed") for result in own):
        return Trial(arm, number, point, name, "open", None, "")
    if len(values) < len(own):
        return Trial(arm, number, point, name, "failed", None, [*errors, f"it has no {search.metric}"][0])
    return Trial(arm, number, point, name, "complete", sum(values.values()) / len(values), "")
