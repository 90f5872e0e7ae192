"""What a study runs, from its YAML: arms and seeds, their budget, the metrics, and what is expected of them.

A cell is one arm with one seed: a run folder and a command of `smartfast train`. Nothing here starts anything.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartfast.config.files import read_settings
from smartfast.config.parse import CONFIGS, parse_config
from smartfast.config.parse import presets as presets_of
from smartfast.errors import UserError
from smartfast.study.hypothesis import Hypothesis, read_hypotheses

STUDIES = CONFIGS.with_name("studies")
CELLS = "cells"
UNLIMITED_KIMG = 1e6
"""run.kimg of a study whose budget is seconds: more than any of them reaches."""

_KEYS = ("title", "question", "base", "settings", "arms", "sweep", "seeds", "budget", "metrics", "hypotheses", "quick")
_QUICK_KEYS = ("settings", "seeds", "budget")
_OWN = {"run.dir": "the cell", "run.seed": "seeds", "run.kimg": "budget"}
_NAME = re.compile(r"[A-Za-z0-9][\w.=,+-]{0,79}")
_SETTING = re.compile(r"[a-z]\w*(\.[a-z]\w*)+")
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Arm:
    """One way to train: what it sets beyond the base, by dotted names of `smartfast train`."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Budget:
    """What every cell may spend; one of the two is None.

    kimg: Thousands of real images shown to the discriminator. seconds: Of training, evaluations left out.
    """

    kimg: float | None
    seconds: float | None

    def __str__(self) -> str:
        return f"{self.kimg:g} kimg" if self.kimg is not None else f"{self.seconds:g} s of training"


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
        name: Of its file, with -quick where it is the quick form.
        base: Preset or file that --config takes.
        sweep: Two settings and their values, in the order of the map's rows and columns; empty without.
        metrics: Names such as fd_digits or, without features, precision.
    """

    name: str
    title: str
    question: str
    base: str
    arms: tuple[Arm, ...]
    sweep: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    budget: Budget
    metrics: tuple[str, ...]
    hypotheses: tuple[Hypothesis, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Seed by seed, so that a study that is not complete has as many of every arm."""
        return tuple(Cell(arm.name, seed) for seed in self.seeds for arm in self.arms)

    def options(self, cell: Cell, out: Path) -> list[str]:
        """The options of `smartfast train` that are this cell, in a folder of the study's."""
        settings = dict(next(arm.settings for arm in self.arms if arm.name == cell.arm))
        settings |= {
            "run.kimg": UNLIMITED_KIMG if self.budget.kimg is None else self.budget.kimg,
            "run.seed": cell.seed,
            "run.dir": str(folder_of(cell, out)),
        }
        return ["--config", self.base, *(f"--{name}={option_text(value)}" for name, value in settings.items())]


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
    _check_keys(settings, _KEYS, "")
    for key in ("base", "seeds", "budget", "metrics"):
        if key not in settings:
            raise UserError(f"{key} is missing, expected in every study")
    short = _mapping(settings.get("quick", {}), "quick")
    _check_keys(short, _QUICK_KEYS, "quick.")
    if quick and not short:
        raise UserError("quick is missing, expected for --quick: settings, seeds and budget of its short form")
    # Checked in either form, lest the one that runs less often is found broken when it is wanted.
    quick_settings = _settings(short.get("settings", {}), "quick.settings")
    quick_seeds = _seeds(short.get("seeds", settings["seeds"]), "quick.seeds" if "seeds" in short else "seeds")
    quick_budget = _budget(short.get("budget", settings["budget"]), "quick.budget" if "budget" in short else "budget")
    sweep, arms = _sweep(settings.get("sweep", {})), _arms(settings)
    metrics = _texts(settings["metrics"], "metrics")
    plan = Plan(
        name=path.stem,
        title=str(settings.get("title", path.stem)),
        question=str(settings.get("question", "")),
        base=_base(settings["base"], path.parent),
        arms=arms,
        sweep=sweep,
        seeds=_seeds(settings["seeds"], "seeds"),
        budget=_budget(settings["budget"], "budget"),
        metrics=metrics,
        hypotheses=read_hypotheses(settings.get("hypotheses", []), [arm.name for arm in arms], metrics),
    )
    if not quick:
        return plan
    arms = tuple(Arm(arm.name, {**arm.settings, **quick_settings}) for arm in arms)
    return dataclasses.replace(plan, name=f"{plan.name}-quick", arms=arms, seeds=quick_seeds, budget=quick_budget)


def check_trainings(plan: Plan) -> None:
    """Check every arm as `smartfast train` would check its options, and that it measures what the study asks for.

    Raises:
        UserError: A setting or value is wrong, two arms are the same training, or a metric is not measured.
    """
    from smartfast.metrics.names import MEASURES, metric_of  # it brings the metrics' libraries

    seen: dict[Any, str] = {}
    for arm in plan.arms:
        try:
            config = parse_config(plan.options(Cell(arm.name, plan.seeds[0]), Path("study")))
        except UserError as error:
            raise UserError(f"arms.{arm.name}: {error}") from error
        same = seen.setdefault(dataclasses.replace(config, run=dataclasses.replace(config.run, dir="")), arm.name)
        if same != arm.name:
            raise UserError(f"arms.{arm.name} trains the same as arms.{same}, expected another setting in each")
        measured = {measure for name in config.metrics.names for measure in MEASURES[name]}
        for name in plan.metrics:
            metric = metric_of(name)
            if metric.measure not in measured or metric.features not in ("", config.metrics.features):
                features = config.metrics.features
                known = ", ".join(sorted(f"{measure}_{features}" for measure in measured))
                raise UserError(f"metrics: arms.{arm.name} does not measure {name}, expected some of {known}")
        if config.metrics.every_ticks == 0:
            raise UserError(f"arms.{arm.name}: metrics.every_ticks is 0, expected evaluations to compare")


def _base(value: Any, folder: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"base is {value!r}, expected a preset or a file")
    if value in presets_of():
        return value
    for file in (folder / value, Path(value)):
        if file.is_file():
            return str(file)
    raise UserError(f"base is {value}, expected a file or one of the presets {', '.join(presets_of())}")


def _arms(settings: Mapping[str, Any]) -> tuple[Arm, ...]:
    common = _settings(settings.get("settings", {}), "settings")
    given = _mapping(settings.get("arms", {}), "arms")
    arms = [Arm(str(name), {**common, **_settings(value or {}, f"arms.{name}")}) for name, value in given.items()]
    sweep = _sweep(settings.get("sweep", {}))
    for values in itertools.product(*sweep.values()) if sweep else ():
        point = dict(zip(sweep, values, strict=True))
        arms.append(Arm(point_name(point), {**common, **point}))
    if not arms:
        raise UserError("arms is empty, expected names with settings, or a sweep")
    for i, arm in enumerate(arms):
        if not _NAME.fullmatch(arm.name):
            raise UserError(f"arms: {arm.name!r} is no name, expected up to 80 letters, digits and _ . = , + -")
        same = next((other.name for other in arms[:i] if other.settings == arm.settings), None)
        if same is not None or arm.name in [other.name for other in arms[:i]]:
            raise UserError(f"arms.{arm.name} trains the same as arms.{same or arm.name}, expected different settings")
    return tuple(arms)


def point_name(point: Mapping[str, Any]) -> str:
    """The arm of a point of the sweep: `frequency=2,weight=20`."""

    def text(value: Any) -> str:
        return "-".join(map(str, value)) if isinstance(value, list) else str(value)

    return ",".join(f"{name.rpartition('.')[2]}={text(value)}" for name, value in point.items())


def _sweep(value: Any) -> dict[str, tuple[Any, ...]]:
    sweep = _settings(value, "sweep")
    if sweep and len(sweep) != 2:
        raise UserError(f"sweep has {len(sweep)} settings, expected two")
    for name, values in sweep.items():
        if not isinstance(values, list) or len(values) < 2:
            raise UserError(f"sweep.{name} is {values!r}, expected a list of at least two values")
    return {name: tuple(values) for name, values in sweep.items()}


def _settings(value: Any, key: str) -> dict[str, Any]:
    settings = _mapping(value, key)
    for name in settings:
        if name in _OWN:
            raise UserError(f"{key}.{name} is given by {_OWN[name]}, expected settings that the study does not choose")
        if not isinstance(name, str) or not _SETTING.fullmatch(name):
            raise UserError(f"{key}: {name!r} is no setting, expected one of `smartfast train` such as smart.frequency")
    return settings


def _seeds(value: Any, key: str) -> tuple[int, ...]:
    seeds = value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,10})-(\d{1,10})", value)):
        seeds = list(range(int(match[1]), min(int(match[2]), int(match[1]) + 10**4) + 1))
    is_right = isinstance(seeds, list) and seeds and all(type(s) is int and 0 <= s <= _LARGEST_SEED for s in seeds)
    if not is_right or len(set(seeds)) < len(seeds):
        raise UserError(f"{key} is {value!r}, expected a list of different whole numbers, or a range such as 0-4")
    return tuple(seeds)


def _budget(value: Any, key: str) -> Budget:
    budget = _mapping(value, key)
    _check_keys(budget, ("kimg", "seconds"), f"{key}.")
    number = next(iter(budget.values()), 0)
    is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    if len(budget) != 1 or not is_number or number <= 0:
        raise UserError(f"{key} is {value!r}, expected {{kimg: NUMBER}} or {{seconds: NUMBER}}")
    return Budget(budget.get("kimg"), budget.get("seconds"))


def _texts(value: Any, key: str) -> tuple[str, ...]:
    is_right = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    if not is_right or len(set(value)) < len(value):
        raise UserError(f"{key} is {value!r}, expected a list of different names")
    return tuple(value)


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r}, expected names and values")
    return value


def _check_keys(settings: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in settings:
        if key not in known:
            raise UserError(f"{prefix}{key}: there is no such key, expected {', '.join(known)}")
