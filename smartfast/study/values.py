"""The values of a study's YAML, each read with one line for what is wrong with it."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smartfast.errors import UserError

_OWN = {"run.dir": "the cell", "run.seed": "seeds", "run.kimg": "budget"}
_SETTING = re.compile(r"[a-z]\w*(\.[a-z]\w*)+")
_LARGEST_SEED = 2**32 - 1

SamplerName = Literal["tpe", "random"]


@dataclass(frozen=True)
class Budget:
    """What every cell may spend; one of the two is None.

    kimg: Thousands of real images shown to the discriminator. seconds: Of training, evaluations left out.
    """

    kimg: float | None
    seconds: float | None

    def __str__(self) -> str:
        return f"{self.kimg:g} kimg" if self.kimg is not None else f"{self.seconds:g} s of training"


def read_options(value: Any, key: str) -> dict[str, Any]:
    """Settings of `smartfast train` by their dotted names."""
    settings = read_mapping(value, key)
    for name in settings:
        if name in _OWN:
            raise UserError(f"{key}.{name} is given by {_OWN[name]}, expected settings that the study does not choose")
        if not isinstance(name, str) or not _SETTING.fullmatch(name):
            raise UserError(f"{key}: {name!r} is no setting, expected one of `smartfast train` such as smart.frequency")
    return settings


def read_seeds(value: Any, key: str) -> tuple[int, ...]:
    """`[0, 1, 2]` or `0-4`."""
    seeds = value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,10})-(\d{1,10})", value)):
        seeds = list(range(int(match[1]), min(int(match[2]), int(match[1]) + 10**4) + 1))
    is_right = isinstance(seeds, list) and seeds and all(type(s) is int and 0 <= s <= _LARGEST_SEED for s in seeds)
    if not is_right or len(set(seeds)) < len(seeds):
        raise UserError(f"{key} is {value!r}, expected a list of different whole numbers, or a range such as 0-4")
    return tuple(seeds)


def read_budget(value: Any, key: str) -> Budget:
    """`{kimg: NUMBER}` or `{seconds: NUMBER}`."""
    budget = read_mapping(value, key)
    check_keys(budget, ("kimg", "seconds"), f"{key}.")
    number = next(iter(budget.values()), 0)
    is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    if len(budget) != 1 or not is_number or number <= 0:
        raise UserError(f"{key} is {value!r}, expected {{kimg: NUMBER}} or {{seconds: NUMBER}}")
    return Budget(budget.get("kimg"), budget.get("seconds"))


def read_count(value: Any, key: str, most: int) -> int:
    """A whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{key} is {value!r}, expected a whole number from 1 to {most}")
    return value


def read_text(value: Any, key: str) -> str:
    """Text."""
    if not isinstance(value, str):
        raise UserError(f"{key} is {value!r}, expected text")
    return value


def read_texts(value: Any, key: str) -> tuple[str, ...]:
    """A list of different names."""
    is_right = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    if not is_right or len(set(value)) < len(value):
        raise UserError(f"{key} is {value!r}, expected a list of different names")
    return tuple(value)


def read_mapping(value: Any, key: str) -> dict[str, Any]:
    """Names and values."""
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r}, expected names and values")
    return value


def check_keys(settings: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
    """Raises UserError where a key is not one of those known; prefix: of the keys, for the message."""
    for key in settings:
        if key not in known:
            raise UserError(f"{prefix}{key}: there is no such key, expected {', '.join(known)}")


def point_name(point: Mapping[str, Any]) -> str:
    """The name of settings, such as `frequency=2,weight=20`."""

    def text(value: Any) -> str:
        return "-".join(map(str, value)) if isinstance(value, list) else str(value)

    return ",".join(f"{name.rpartition('.')[2]}={text(value)}" for name, value in point.items())
