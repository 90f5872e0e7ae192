"""A study's search, from its YAML: what settings are drawn from for every arm, and the draws, by Optuna's samplers.

A draw depends on the YAML and on the earlier trials of its arm, on nothing else: not on a clock, nor on who runs what.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from smartfast.errors import UserError
from smartfast.study.values import (
    Budget,
    SamplerName,
    check_keys,
    point_name,
    read_budget,
    read_count,
    read_mapping,
    read_options,
    read_seeds,
)

_REQUIRED = ("space", "trials", "seeds", "metric")
_KEYS = (*_REQUIRED, "together", "budget", "sampler", "seed")
QUICK_KEYS = ("trials", "together", "seeds", "budget")
_MOST_TRIALS = 1000
_RANDOM_SHARE = 3  # one trial in three is drawn before TPE has a model
_DIGITS = 4  # of a number that is drawn
_LONGEST_NAME = 160  # of a trial's arm: it is part of a folder's name
_NAME = re.compile(r"[\w.=,+-]+")


class Range(NamedTuple):
    """Numbers from low to high, both included; log: evenly over their logarithms; whole: none with a fraction."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Search:
    """Trials of every arm.

    Attributes:
        space: What each setting is drawn from, by dotted names of `smartfast train`: a range, or a list of values.
        trials: Of each arm.
        together: Trials that are drawn at once, from the results of those before them.
        seeds: Of each trial; none is one of the study's.
        metric: Whose mean over the seeds decides.
        budget: Of each training.
        seed: Of the sampler; every arm has the same, and thus the same first draws.
    """

    space: Mapping[str, Range | tuple[Any, ...]]
    trials: int
    together: int
    seeds: tuple[int, ...]
    metric: str
    budget: Budget
    sampler: SamplerName
    seed: int

    def __str__(self) -> str:
        space = ", ".join(f"{name} {_range_text(values)}" for name, values in self.space.items())
        drawn = f"{self.together} at once, " if self.together > 1 else ""
        return f"{self.trials} trials of every arm, drawn by {self.sampler} (seed {self.seed}), {drawn}from {space}"


def read_search(value: Any, metrics: Sequence[str], budget: Budget) -> Search:
    """The search of a study's YAML; budget: where it has none.

    Raises:
        UserError: A key or value is wrong.
    """
    given = read_mapping(value, "search")
    check_keys(given, _KEYS, "search.")
    for key in _REQUIRED:
        if key not in given:
            raise UserError(f"search.{key} is missing, expected in every search")
    if given["metric"] not in metrics:
        raise UserError(f"search.metric is {given['metric']}, expected one of the study's: {', '.join(metrics)}")
    sampler = given.get("sampler", "tpe")
    if sampler not in get_args(SamplerName):
        raise UserError(f"search.sampler is {sampler}, expected one of {', '.join(get_args(SamplerName))}")
    return Search(
        space=_read_space(given["space"]),
        trials=read_count(given["trials"], "search.trials", _MOST_TRIALS),
        together=read_count(given.get("together", 1), "search.together", _MOST_TRIALS),
        seeds=read_seeds(given["seeds"], "search.seeds"),
        metric=given["metric"],
        budget=read_budget(given["budget"], "search.budget") if "budget" in given else budget,
        sampler=sampler,
        seed=read_seeds([given.get("seed", 0)], "search.seed")[0],
    )


def draw(search: Search, history: Sequence[tuple[Mapping[str, Any], float | None]], count: int) -> list[dict[str, Any]]:
    """The settings of an arm's next trials.

    Args:
        history: The settings of each trial so far, and how bad they were; None = it failed.
        count: How many.
    """
    distributions = {name: _distribution(values) for name, values in search.space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(search, len(history)))
    for point, badness in history:
        trial = create_trial(
            params={name: _encoded(values, point[name]) for name, values in search.space.items()},
            distributions=distributions,
            value=badness,
            state=TrialState.FAIL if badness is None else TrialState.COMPLETE,
        )
        study.add_trial(trial)
    points = []
    for _ in range(count):
        drawn = study.ask(distributions).params
        points.append({name: _decoded(values, drawn[name]) for name, values in search.space.items()})
    return points


def corners(search: Search) -> list[dict[str, Any]]:
    """Points that between them have every value of every list and both ends of every range."""
    ends = {name: v[:2] if isinstance(v, Range) else v for name, v in search.space.items()}
    first = {name: values[0] for name, values in ends.items()}
    return [first] + [{**first, name: value} for name, values in ends.items() for value in values[1:]]


def _read_space(value: Any) -> dict[str, Range | tuple[Any, ...]]:
    space = {name: _read_values(v, f"search.space.{name}") for name, v in read_options(value, "search.space").items()}
    if not space:
        raise UserError("search.space is empty, expected settings and what they are drawn from")
    texts = {n: ["0" * 10] if isinstance(v, Range) else [point_name({n: one}) for one in v] for n, v in space.items()}
    for name, names in texts.items():
        wrong = next((text for text in names if not _NAME.fullmatch(text) or names.count(text) > 1), None)
        if wrong is not None:
            raise UserError(f"search.space.{name}: {wrong!r} cannot name a folder, expected different plain values")
    longest = sum(max(map(len, names)) + len(name.rpartition(".")[2]) for name, names in texts.items())
    if longest > _LONGEST_NAME:
        raise UserError(f"search.space: trials have names of {longest} letters, expected {_LONGEST_NAME} at most")
    return space


def _read_values(value: Any, key: str) -> Range | tuple[Any, ...]:
    if isinstance(value, list) and len(value) > 1:
        return tuple(value)
    expected = "expected a list of values, or {low: NUMBER, high: NUMBER} with log: true or whole: true"
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys() <= set(Range._fields):
        raise UserError(f"{key} is {value!r}, {expected}")
    found = Range(**{"log": False, "whole": False, **value})
    numbers, flags = (found.low, found.high), (found.log, found.whole)
    is_right = all(type(n) in (int, float) and math.isfinite(n) for n in numbers) and set(map(type, flags)) == {bool}
    if not is_right or found.low >= found.high:
        raise UserError(f"{key} is {value!r}, {expected}, low below high")
    if (found.log and found.low <= 0) or (found.whole and not all(isinstance(number, int) for number in numbers)):
        raise UserError(f"{key} is {value!r}, expected low above 0 for log: true, and whole numbers for whole: true")
    return found


def _sampler(search: Search, first: int) -> BaseSampler:
    """first: Number of the first trial that it draws."""
    seed = int(np.random.SeedSequence([search.seed, first]).generate_state(1)[0])
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=max(1, search.trials // _RANDOM_SHARE))


def _distribution(values: Range | tuple[Any, ...]) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution(range(len(values)))
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _encoded(values: Range | tuple[Any, ...], value: Any) -> CategoricalChoiceType:
    return value if isinstance(values, Range) else values.index(value)


def _decoded(values: Range | tuple[Any, ...], drawn: Any) -> Any:
    if not isinstance(values, Range):
        return values[drawn]
    return drawn if values.whole else min(max(float(f"{drawn:.{_DIGITS}g}"), values.low), values.high)


def _range_text(values: Range | tuple[Any, ...]) -> str:
    if not isinstance(values, Range):
        return "of " + ", ".join(str(value) for value in values)
    return f"{values.low:g} to {values.high:g}" + " by logarithm" * values.log + " in whole numbers" * values.whole
