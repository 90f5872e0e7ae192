"""What a study runs, from its YAML: arms and seeds, their budget, the metrics, and what is expected of them.

A cell is one arm with one seed: a run folder and a command of `smartfast train`. Nothing here starts anything.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartfast.config.files import read_settings
from smartfast.config.parse import CONFIGS, parse_config
from smartfast.config.parse import presets as presets_of
from smartfast.config.schema import Config
from smartfast.errors import UserError
from smartfast.study.hypothesis import Hypothesis, read_hypotheses
from smartfast.study.search import QUICK_KEYS, Search, corners, read_search
from smartfast.study.values import (
    Budget,
    check_keys,
    point_name,
    read_budget,
    read_mapping,
    read_options,
    read_seeds,
    read_text,
    read_texts,
)

STUDIES = CONFIGS.with_name("studies")
CELLS = "cells"
UNLIMITED_KIMG = 1e6
"""run.kimg of a study whose budget is seconds: more than any of them reaches."""

_KEYS = (
    *("title", "question", "base", "settings", "arms", "sweep", "seeds", "budget", "metrics", "compare"),
    *("hypotheses", "search", "quick", "conclusion"),
)
_QUICK_KEYS = ("settings", "seeds", "budget", "search")
_NAME = re.compile(r"[A-Za-z0-9][\w.=,+-]{0,79}")


@dataclass(frozen=True)
class Arm:
    """One way to train: a preset or file that --config takes, and what is set beside it, by dotted names."""

    name: str
    base: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training of a study."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, the same whatever else the study has."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        path: Of its file.
        is_quick: Whether it is the quick form.
        sweep: Two settings and their values, in the order of the map's rows and columns; empty without.
        metrics: Names such as fd_digits or, without features, precision.
        compared: Arms whose differences are tested, each with the arm that it is compared with.
        search: Of settings, before the seeds; None = without.
        conclusion: What somebody wrote after the runs; each line is a paragraph.
    """

    path: str
    is_quick: bool
    title: str
    question: str
    conclusion: str
    arms: tuple[Arm, ...]
    sweep: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    budget: Budget
    metrics: tuple[str, ...]
    compared: tuple[tuple[str, str], ...]
    hypotheses: tuple[Hypothesis, ...]
    search: Search | None

    @property
    def name(self) -> str:
        """Of its file, with -quick where it is the quick form."""
        return Path(self.path).stem + "-quick" * self.is_quick

    @property
    def default_out(self) -> str:
        """Its folder where none is asked for."""
        return f"runs/studies/{self.name}"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Seed by seed, so that a study that is not complete has as many of every arm."""
        return tuple(Cell(arm.name, seed) for seed in self.seeds for arm in self.arms)

    def options(self, cell: Cell, out: Path) -> list[str]:
        """The options of `smartfast train` that are this cell, in a folder of the study's."""
        arm = next(arm for arm in self.arms if arm.name == cell.arm)
        settings = {
            **arm.settings,
            "run.kimg": UNLIMITED_KIMG if self.budget.kimg is None else self.budget.kimg,
            "run.seed": cell.seed,
            "run.dir": str(folder_of(cell, out)),
        }
        return ["--config", arm.base, *(f"--{name}={option_text(value)}" for name, value in settings.items())]


def folder_of(cell: Cell, out: Path) -> Path:
    """The run folder of a cell of the study in `out`."""
    return out / CELLS / cell.name


def option_text(value: Any) -> str:
    """A value of YAML as the command line takes it: true, null, [1,2], text as it is."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def find_study(name: str) -> Path:
    """The file of a study by its name in configs/studies or its path.

    Raises:
        UserError: There is none.
    """
    known = STUDIES / f"{name}.yaml"
    if known.is_file():
        return known
    if not Path(name).is_file():
        names = ", ".join(sorted(path.stem for path in STUDIES.glob("*.yaml")))
        raise UserError(f"study {name}: no such file, expected one, or the name of one of {names}")
    return Path(name)


def load_plan(path: Path, *, quick: bool = False) -> Plan:
    """The study of a YAML file, or its quick form: all that can be said of it without the settings' types.

    Raises:
        UserError: A key or value is wrong; names the file and the key.
    """
    try:
        return _plan(read_settings(str(path)), path, quick)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(str(path)) else f"{path}: {line}") from error


def _plan(settings: Mapping[str, Any], path: Path, quick: bool) -> Plan:
    check_keys(settings, _KEYS, "")
    for key in ("seeds", "budget", "metrics"):
        if key not in settings:
            raise UserError(f"{key} is missing, expected in every study")
    short = read_mapping(settings.get("quick", {}), "quick")
    check_keys(short, _QUICK_KEYS, "quick.")
    if quick and not short:
        raise UserError("quick is missing, expected for --quick: settings, seeds and budget of its short form")
    # Both are checked, lest the one that runs less often is found broken when it is wanted.
    plan = _form(settings, {}, path)
    try:
        quick_plan = _form(_shortened(settings, short), short.get("settings", {}), path)
    except UserError as error:
        raise UserError(f"quick.{error}") from error
    # The conclusion is the long form's.
    return dataclasses.replace(quick_plan, is_quick=True, conclusion="") if quick else plan


def _shortened(settings: Mapping[str, Any], short: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the quick form, but for its settings of trainings."""
    merged = {**settings, **{key: value for key, value in short.items() if key != "settings"}}
    if "search" in settings:
        of_search = read_mapping(short.get("search", {}), "search")
        check_keys(of_search, QUICK_KEYS, "search.")
        kept = {key: value for key, value in settings["search"].items() if key != "budget" or "budget" not in short}
        merged["search"] = {**kept, **of_search}
    return merged


def _form(settings: Mapping[str, Any], winning: Any, path: Path) -> Plan:
    """The study of these keys; winning: settings that win over those of every arm."""
    metrics, budget = read_texts(settings["metrics"], "metrics"), read_budget(settings["budget"], "budget")
    winning = read_options(winning, "settings")
    arms = [dataclasses.replace(a, settings={**a.settings, **winning}) for a in _arms(settings, path.parent)]
    names = [arm.name for arm in arms]
    plan = Plan(
        path=str(path),
        is_quick=False,
        title=read_text(settings.get("title", path.stem), "title"),
        question=read_text(settings.get("question", ""), "question"),
        conclusion=read_text(settings.get("conclusion", ""), "conclusion"),
        arms=tuple(arms),
        sweep=_sweep(settings.get("sweep", {})),
        seeds=read_seeds(settings["seeds"], "seeds"),
        budget=budget,
        metrics=metrics,
        compared=_compared(settings.get("compare", dict.fromkeys(names[1:], names[0])), names),
        hypotheses=read_hypotheses(settings.get("hypotheses", []), names, metrics),
        search=read_search(settings["search"], metrics, budget) if "search" in settings else None,
    )
    _check_search(plan)
    return plan


def _check_search(plan: Plan) -> None:
    if plan.search is None:
        return
    shared = sorted(set(plan.seeds) & set(plan.search.seeds))
    if shared:
        raise UserError(f"search.seeds has {shared[0]}, which seeds has too, expected seeds that no trial has seen")
    for arm in plan.arms:
        for name in plan.search.space:
            if name in arm.settings:
                raise UserError(f"search.space.{name} is set by arms.{arm.name} too, expected one of the two")


def check_trainings(plan: Plan) -> None:
    """Check every arm as `smartfast train` would check its options, and that it measures what the study asks for.

    With a search, at both ends of each range and each value of each list too.

    Raises:
        UserError: A setting or value is wrong, two arms are the same training, or a metric is not measured.
    """
    seen: dict[Any, str] = {}
    for arm in plan.arms:
        config = _checked_config(plan, arm, f"arms.{arm.name}")
        same = seen.setdefault(dataclasses.replace(config, run=dataclasses.replace(config.run, dir="")), arm.name)
        if same != arm.name:
            raise UserError(f"arms.{arm.name} trains the same as arms.{same}, expected another setting in each")
        for point in corners(plan.search) if plan.search else ():
            tried = dataclasses.replace(arm, settings={**arm.settings, **point})
            _checked_config(plan, tried, f"arms.{arm.name} with {point_name(point)} of search.space")


def _checked_config(plan: Plan, arm: Arm, key: str) -> Config:
    from smartfast.metrics.names import MEASURES, metric_of  # it brings the metrics' libraries

    plan = dataclasses.replace(plan, arms=(arm,))
    try:
        config = parse_config(plan.options(Cell(arm.name, plan.seeds[0]), Path("study")))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    measured = {measure for name in config.metrics.names for measure in MEASURES[name]}
    for name in plan.metrics:
        metric = metric_of(name)
        if metric.measure not in measured or metric.features not in ("", config.metrics.features):
            features = config.metrics.features
            known = ", ".join(sorted(f"{measure}_{features}" for measure in measured))
            raise UserError(f"metrics: {key} does not measure {name}, expected some of {known}")
    if config.metrics.every_ticks == 0:
        raise UserError(f"{key}: metrics.every_ticks is 0, expected evaluations to compare")
    return config


def _base(value: Any, key: str, folder: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key} is {value!r}, expected a preset or a file")
    if value in presets_of():
        return value
    for file in (folder / value, Path(value)):
        if file.is_file():
            return str(file)
    raise UserError(f"{key} is {value}, expected a file or one of the presets {', '.join(presets_of())}")


def _arms(settings: Mapping[str, Any], folder: Path) -> tuple[Arm, ...]:
    base = _base(settings["base"], "base", folder) if "base" in settings else None
    common = read_options(settings.get("settings", {}), "settings")
    given = read_mapping(settings.get("arms", {}), "arms")
    arms = [_arm(str(name), value or {}, base, common, folder) for name, value in given.items()]
    sweep = _sweep(settings.get("sweep", {}))
    for values in itertools.product(*sweep.values()) if sweep else ():
        point = dict(zip(sweep, values, strict=True))
        arms.append(_arm(point_name(point), point, base, common, folder))
    if not arms:
        raise UserError("arms is empty, expected names with settings, or a sweep")
    for i, arm in enumerate(arms):
        if not _NAME.fullmatch(arm.name):
            raise UserError(f"arms: {arm.name!r} is no name, expected up to 80 letters, digits and _ . = , + -")
        same = next((o.name for o in arms[:i] if (o.base, o.settings) == (arm.base, arm.settings)), None)
        if same is not None or arm.name in [other.name for other in arms[:i]]:
            raise UserError(f"arms.{arm.name} trains the same as arms.{same or arm.name}, expected different settings")
    return tuple(arms)


def _arm(name: str, value: Any, base: str | None, common: Mapping[str, Any], folder: Path) -> Arm:
    """base: Of arms that name none."""
    own = dict(read_mapping(value, f"arms.{name}"))
    if "base" in own:
        base = _base(own.pop("base"), f"arms.{name}.base", folder)
    if base is None:
        raise UserError(f"base is missing, expected in a study or in each of its arms, as in arms.{name}")
    return Arm(name, base, {**common, **read_options(own, f"arms.{name}")})


def _compared(value: Any, names: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = tuple(read_mapping(value, "compare").items())
    for arm, other in pairs:
        if arm not in names or other not in names or arm == other:
            raise UserError(f"compare has {arm}: {other}, expected two arms of the study: {', '.join(names)}")
    return pairs


def _sweep(value: Any) -> dict[str, tuple[Any, ...]]:
    sweep = read_options(value, "sweep")
    if sweep and len(sweep) != 2:
        raise UserError(f"sweep has {len(sweep)} settings, expected two")
    for name, values in sweep.items():
        if not isinstance(values, list) or len(values) < 2:
            raise UserError(f"sweep.{name} is {values!r}, expected a list of at least two values")
    return {name: tuple(values) for name, values in sweep.items()}
